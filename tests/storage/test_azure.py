"""Azure Storage: against Azurite, and against a server that misbehaves.

Not checked here: the whole pipeline (tests/system/test_azure.py); identities and TLS of the real
service.
"""

import pytest

from tests.conftest import azure_environment
from tests.contracts.stores import ObjectStoreContract
from transforms.storage.azure import AzureStore
from transforms.storage.base import FetchLimits

LIMITS = FetchLimits(max_bytes=10_000, deadline_sec=10.0)
SHORT = FetchLimits(max_bytes=10_000, deadline_sec=0.5)


class TestLikeEveryStore(ObjectStoreContract):
    # Azure resolves '..'; see below.
    ODD_NAMES = (
        *(name for name in ObjectStoreContract.ODD_NAMES if name != 'x/../y.jpg'),
        *('new\nline.jpg', 'a~b.jpg', 'a%2520b'),
    )

    @pytest.fixture
    def place(self, container):
        return container

    @pytest.fixture
    def address(self, azure):
        return azure

    def store_at(self, address, monkeypatch):
        return AzureStore(azure_environment(address))

    def put_folder(self, place, name, data):
        from azure.storage.blob import ContentSettings

        kind = ContentSettings('application/x-directory; charset=UTF-8')
        place.put(name, data, content_settings=kind)

    def test_open_is_a_seekable_stream(self, address, place):
        store = AzureStore(stream_bytes=30_000)  # several requests
        super().test_open_is_a_seekable_stream(store, place)
