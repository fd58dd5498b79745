"""Why images have no labels: a closed list, with all that is known of each reason in one place."""

import dataclasses
import enum
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
    """What is known of a reason; texts are for people, lower case, without a full stop.

    Attributes:
      meaning: what happened.
      advice: what to do.
      in_folders: what to do instead if the image was found in a folder, and nobody wrote its name
        down; '' if that makes no difference.
      by_detail: what to do instead, by how the detail begins.
      when_all_fail: what to check when nearly all images fail with it; '' if that predicts nothing
        for the next image.
      option: the limit that was exceeded, if a higher one may let the image through.
      retryable: whether the same image may succeed when nothing but time has passed.
      of_access: whether it may go away without a new version of the object.
      of_store: whether it means that a store is down or stalls.
      of_listing: whether a name or a line is wrong, and nothing was fetched.
      crashed: whether the image crashed or stalled its decoder.
    """

    meaning: str
    advice: str
    in_folders: str = ''
    by_detail: Mapping[str, str] = dataclasses.field(default_factory=dict)
    when_all_fail: str = ''
    option: str = ''
    retryable: bool = False
    of_access: bool = False
    of_store: bool = False
    of_listing: bool = False
    crashed: bool = False


class Reason(enum.Enum):
    """Why an image has no labels; the README's table is made of these."""

    about: About

    # The default is for `Reason(name)`, which finds one.
    def __new__(cls, name: str, about: About = About(meaning='', advice='')) -> 'Reason':
        """A reason whose value is its name in files."""
        reason = object.__new__(cls)
        reason._value_ = name
        reason.about = about
        return reason

    NOT_FOUND = (
        'not_found',
        About(
            meaning='no such file, object or host, or it was deleted after it was listed',
            advice='correct the manifest',
            in_folders='it was deleted after it was listed: run again once it is back',
            of_access=True,
        ),
    )
    FORBIDDEN = (
        'forbidden',
        About(
            meaning='access is denied, it is archived, its site forbids machines to use it, or its '
            'URL leads to an address that is not public',
            advice='give the account read access',
            by_detail={
                'a private address': 'pass --allow_private_hosts if you trust the manifest to read '
                'from your network',
                'a metadata address': 'correct the manifest: cloud metadata addresses, which '
                'give out credentials, are never read',
                'X-Robots-Tag': 'leave it; pass --ignore_robots_tag if you have the right to it',
                'archived': 'restore it from the archive first',
            },
            when_all_fail='give the account read access there',
            of_access=True,
        ),
    )
    TOO_MANY_BYTES = (
        'too_many_bytes',
        About(
            meaning='the encoded file is larger than --max_bytes',
            advice='raise --max_bytes, and --memory_budget with it, if you want such files',
            option='max_bytes',
        ),
    )
    DEADLINE = (
        'deadline',
        About(
            meaning='fetching took longer than --fetch_deadline_sec',
            advice='run again; raise --fetch_deadline_sec for slow stores',
            when_all_fail='the store stalls, or is too slow for --fetch_deadline_sec',
            retryable=True,
            of_store=True,
        ),
    )
    STORE_ERROR = (
        'store_error',
        About(
            meaning='the store kept failing, could not be reached, or gave an unexpected answer',
            advice='run again later',
            when_all_fail='is the store down, or the network?',
            retryable=True,
            of_store=True,
        ),
    )
    CHECKSUM = (
        'checksum',
        About(
            meaning="its bytes repeatedly did not match the store's checksum or the listed size",
            advice='run again; if it persists, upload the file again',
            retryable=True,
        ),
    )
    CHANGED_WHILE_READING = (
        'changed_while_reading',
        About(
            meaning='it was changed while it was read, or between tries',
            advice='run again when nothing writes to it',
            retryable=True,
        ),
    )
    NOT_A_FILE = (
        'not_a_file',
        About(
            meaning='a folder, device, FIFO, socket or system file',
            advice='correct the manifest',
            in_folders='exclude it with a glob, or move it elsewhere',
        ),
    )
    EMPTY = (
        'empty',
        About(meaning='0 bytes', advice='find out why it is empty'),
    )
    NOT_AN_IMAGE = (
        'not_an_image',
        About(
            meaning='not a known image format; the detail names web pages, XML errors, JSON, '
            'Git LFS pointers and AppleDouble files',
            advice='correct the manifest',
            in_folders='it has the suffix of an image: rename it, or move it elsewhere',
        ),
    )
    UNSUPPORTED_FORMAT = (
        'unsupported_format',
        About(
            meaning='a known format, or an encoding of one, that is not supported, a '
            'Content-Encoding that is not unpacked, or samples without a defined range',
            advice='convert it',
            by_detail={
                'HEI': 'install lemmabeam[heif] and pass --retry_dead to the next run, or '
                'convert it',
            },
        ),
    )
    TRUNCATED = (
        'truncated',
        About(
            meaning='the file ends before its image does, pixels that it declares are missing, '
            'or two downloads ended before their Content-Length',
            advice='fetch or upload it again',
        ),
    )
    TOO_MANY_PIXELS = (
        'too_many_pixels',
        About(
            meaning='its header declares more pixels than --max_pixels',
            advice='raise --max_pixels, and --memory_budget with it, if you trust it',
            option='max_pixels',
        ),
    )
    DECODE_ERROR = (
        'decode_error',
        About(meaning='its data is damaged', advice='replace it'),
    )
    # The machine may have been short of memory, or slow.
    DECODER_CRASHED = (
        'decoder_crashed',
        About(
            meaning='it crashed the process that fetched or decoded it, twice, or needed more '
            'memory than there was',
            advice='check where it comes from; if there are many, provide more memory, then '
            'run lemmabeam retry',
            when_all_fail='is there too little memory, or is a library broken?',
            retryable=True,
            crashed=True,
        ),
    )
    DECODE_DEADLINE = (
        'decode_deadline',
        About(
            meaning='decoding took longer than --decode_deadline_sec, twice',
            advice='check where it comes from; if there are many, raise --decode_deadline_sec, '
            'then run lemmabeam retry',
            when_all_fail='the machine is too slow, or too busy, for --decode_deadline_sec',
            retryable=True,
            crashed=True,
        ),
    )
    NONFINITE_SCORES = (
        'nonfinite_scores',
        About(
            meaning='the model gave NaN or infinite scores for it',
            advice='check the image and the model',
            when_all_fail='the model does not work in this precision, or at all',
        ),
    )
    MODEL_ERROR = (
        'model_error',
        About(
            meaning='the model failed on it, gave another shape or ran out of memory, even '
            'with no other image in its batch',
            advice='run again; if it persists, check the image and the model',
            when_all_fail='the model does not work',
            retryable=True,
        ),
    )
    BAD_NAME = (
        'bad_name',
        About(
            meaning='its name, or a carried value, is not UTF-8 or is too long for a folder name',
            advice='rename it',
            of_listing=True,
        ),
    )
    BAD_URI = (
        'bad_uri',
        About(
            meaning='a manifest line that is not a URI this version can read',
            advice='correct the manifest',
            in_folders='rename it',
            of_listing=True,
        ),
    )

    @property
    def retryable(self) -> bool:
        """Whether the same image may succeed when nothing but time has passed."""
        return self.about.retryable

    @property
    def lasting(self) -> bool:
        """Whether it holds as long as the object keeps its version."""
        return not (self.about.retryable or self.about.of_access)

    @property
    def systemic(self) -> bool:
        """Whether it predicts something for the next image when nearly all fail with it."""
        return bool(self.about.when_all_fail)

    def advice_for(self, detail: str) -> str:
        """What to do about an image that failed with this detail; '' if the usual advice holds."""
        found = (text for start, text in self.about.by_detail.items() if detail.startswith(start))
        return next(found, '')
