"""Duplicates and chunks."""

import hashlib
import itertools
import random
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms import chunks
from transforms.chunks import bucket_count, bucket_of, chunk_id, cut, merge
from transforms.core.elements import Chunk, DeadLetter, Item, Known, Note, Ref, Twin

pure = settings(derandomize=True, max_examples=60, deadline=None)
names = st.text(st.characters(exclude_categories=['Cs']), min_size=1, max_size=6)
carried = st.sampled_from(['[]', '["x"]', '["y"]', '[null]'])
items = st.lists(
    st.builds(
        Item,
        names,
        st.sampled_from(['', '1', '2']),
        st.integers(-1, 9),
        st.lists(carried, unique=True, min_size=1, max_size=2),
        checksum=st.just(''),
        same=st.lists(st.builds(Twin, names, st.just('1'), st.lists(carried)), max_size=2),
    ),
    max_size=24,
    unique_by=lambda item: item.uri,
)
refs_of_one_uri = st.lists(
    st.builds(
        Ref,
        st.just('/a.jpg'),
        st.sampled_from(['', 'v1', 'v2']),
        st.sampled_from([-1, 5]),
        carried,
        st.sampled_from(['', '', 'bad_uri', 'bad_name']),
        st.sampled_from(['', 'why']),
        st.sampled_from(['', 'https://h/a.jpg?sig=1', 'https://h/a.jpg?sig=2']),
        st.sampled_from(['', 's3:1']),
    ),
    min_size=1,
    max_size=8,
)


def chunks_of(listed, chunk_size):
    """The chunks of a listing, as the graph forms them."""
    buckets = bucket_count(len(listed), chunk_size)
    grouped = defaultdict(list)
    for item in listed:
        grouped[bucket_of(item.uri, buckets)].append(item)
    return {chunk.id: chunk for bucket in grouped.values() for chunk in cut(bucket, chunk_size)}


@pure
@given(items, st.integers(1, 7), st.integers(0, 999).map(random.Random))
def test_chunks_do_not_depend_on_the_order_of_the_listing(listed, chunk_size, chance):
    shuffled = chance.sample(listed, len(listed))
    assert chunks_of(shuffled, chunk_size) == chunks_of(listed, chunk_size)


@pure
@given(items, st.integers(1, 7))
def test_every_item_is_in_exactly_one_chunk_of_at_most_chunk_size(listed, chunk_size):
    chunks = chunks_of(listed, chunk_size).values()
    assert sorted(item for chunk in chunks for item in chunk.items) == sorted(listed)
    for chunk in chunks:
        assert 1 <= len(chunk.items) <= chunk_size
        assert chunk.items == sorted(chunk.items)
        assert chunk.id == chunk_id(chunk.items)
        assert len(chunk.id) == 16


@pure
@given(st.integers(0, 10**9), st.integers(1, 10**5))
def test_the_bucket_count_is_the_least_power_of_two_that_suffices(images, chunk_size):
    expected = 1
    while expected * chunk_size < images:
        expected *= 2
    assert bucket_count(images, chunk_size) == expected


@pytest.mark.parametrize(
    ('images', 'buckets'), [(0, 1), (1, 1), (1024, 1), (1025, 2), (2048, 2), (2049, 4), (4097, 8)]
)
def test_bucket_count_at_the_edges(images, buckets):
    assert bucket_count(images, 1024) == buckets


def test_why_it_failed_the_last_time_is_known_and_changes_nothing():
    ref = Ref('/a.jpg', 'v1', 5, '[]', '', '')
    last = Known(1, '', '', 'forbidden', True)
    plain, merged = merge([ref]), merge([ref], [last])
    assert merged.item == plain.item._replace(failed='forbidden')
    assert merged._replace(item=None) == plain._replace(item=None)
    assert chunk_id([merged.item]) == chunk_id([plain.item])
    labelled = Known(1, 'v1', '[]', '', True)
    assert merge([ref], [labelled, last]) == merge([ref], [labelled])
    assert merge([], [last]) == merge([])


@pure
@given(names, st.integers(0, 12))
def test_a_bucket_comes_from_the_content_of_the_uri(uri, bits):
    digest = hashlib.sha256(uri.encode()).digest()
    assert bucket_of(uri, 2**bits) == int.from_bytes(digest[:8], 'big') % 2**bits
    # Twice as many buckets split each into two.
    assert bucket_of(uri, 2 ** (bits + 1)) % 2**bits == bucket_of(uri, 2**bits)


def test_buckets_are_even():
    counts = Counter(bucket_of(f'gs://b/{i:06}.jpg', 16) for i in range(16_000))
    assert len(counts) == 16
    assert all(850 < count < 1150 for count in counts.values())


def test_a_chunk_id_names_what_a_chunk_contains():
    parts = [
        [Item('/a', '1', 5, ['[]'])],
        [Item('/a', '2', 5, ['[]'])],
        [Item('/a', '1', 5, ['["x"]'])],
        [Item('/b', '1', 5, ['[]'])],
        [Item('/a1', '', 5, ['[]'])],
        [Item('/a', '1', 5, ['[]']), Item('/b', '1', 5, ['[]'])],
    ]
    assert len({chunk_id(part) for part in parts}) == len(parts)
    # The size is no content: a listing that does not know it makes the same chunk.
    assert chunk_id([Item('/a', '1', -1, ['[]'], 'https://secret@h/a')]) == chunk_id(parts[0])


@pure
@given(refs_of_one_uri)
def test_merged_refs_are_what_a_slow_count_says(refs):
    item, dead, duplicates, *_ = merge(refs)
    kept = []
    for value, reason in sorted({(ref.carried, ref.reason) for ref in refs}):
        group = [ref for ref in refs if (ref.carried, ref.reason) == (value, reason)]
        kept.append(max(group, key=lambda ref: (ref.version, ref.size_bytes, ref.detail)))
    good = [ref for ref in kept if not ref.reason]
    rows = [] if item is None else list(item.carried)
    assert rows == [ref.carried for ref in good]
    assert [(letter.carried, letter.reason, letter.detail) for letter in dead] == [
        (ref.carried, ref.reason, ref.detail) for ref in kept if ref.reason
    ]
    assert duplicates == len(refs) - len(kept)
    if item is not None:
        best = max((ref.version, ref.size_bytes) for ref in good)
        assert (item.uri, item.version, item.size_bytes) == ('/a.jpg', *best)
    for letter in dead:
        assert letter.stage == 'list'
    # Balanced: each ref is one row, one dead letter or one duplicate.
    assert len(rows) + len(dead) + duplicates == len(refs)


@pure
@given(refs_of_one_uri, st.integers(0, 999).map(random.Random))
def test_merged_refs_do_not_depend_on_their_order(refs, chance):
    assert merge(chance.sample(refs, len(refs))) == merge(refs)


def test_a_bad_name_that_is_printed_as_a_good_one_is_something_else():
    refs = [Ref('/\\xff.jpg', '', -1, '[]', reason, '') for reason in ('', 'bad_name', 'bad_uri')]
    for order in itertools.permutations(refs):
        item, dead, duplicates, *_ = merge(order)
        assert item == Item('/\\xff.jpg', '', -1, ['[]'])
        assert [letter.reason for letter in dead] == ['bad_name', 'bad_uri']
        assert duplicates == 0
    known = [Known(1, '1', '[]', '', True), Known(2, '', '[]', 'bad_name', True)]
    assert merge(refs[:2], known).item == Item('/\\xff.jpg', '', -1, ['[]'], known='1')
    assert merge(refs[:2], known).unchanged == 1


def test_the_largest_way_to_fetch_an_image_is_taken_and_makes_no_other_image():
    signed = [f'https://h/a.jpg?sig={i}' for i in range(3)]
    refs = [Ref('https://h/a.jpg', '', -1, '[]', '', '')] * 4
    for access in itertools.permutations(signed):
        item, dead, duplicates, *_ = merge(refs, (), access)
        assert item == Item('https://h/a.jpg', '', -1, ['[]'], signed[-1])
        assert (dead, duplicates) == ([], 3)
    assert 'sig' not in repr(Chunk('x', [item]))


def key_of(row):
    """What rows of one URI are told apart by."""
    return row.carried, row.reason if row.reason in ('bad_uri', 'bad_name') else ''


known_of_one_uri = st.lists(
    st.builds(
        Known,
        st.integers(1, 4),
        st.sampled_from(['', 'v1', 'v2']),
        carried,
        st.sampled_from(['', '', 'truncated', 'bad_uri', 'gone', 'listed']),
        st.booleans(),
    ),
    max_size=6,
)


@pure
@given(st.lists(refs_of_one_uri, max_size=1), known_of_one_uri)
def test_what_an_earlier_run_has_dealt_with_is_left_alone(refs, known):
    refs = refs[0] if refs else []
    merged = merge(refs, known)
    fresh = merge(refs)
    # Nothing is lost: what would have been done without the earlier runs is done or unchanged.
    assert merged.duplicates == fresh.duplicates
    rows = len(merged.item.carried) if merged.item else 0
    assert rows + len(merged.dead) + merged.duplicates + merged.unchanged == len(refs)
    newest = {}
    for each in sorted(known):
        if each.reason not in ('gone', 'listed'):
            newest[key_of(each)] = each
    for ref in refs:
        last = newest.get(key_of(ref))
        same = [other for other in refs if key_of(other) == key_of(ref)]
        if last is None or (not last.reason and all(not r.version for r in same)):
            # Never seen, or the listing does not tell: it is still to be done, or to be looked at.
            is_left = merged.item is not None and ref.carried in merged.item.carried
            assert is_left or any(letter.carried == ref.carried for letter in merged.dead)
    if merged.item is not None and merged.item.known:
        # Read only if changed: then the listing knows no version, and all rows want the same.
        assert merged.item.version == ''
        assert {newest[value, ''].version for value in merged.item.carried} == {merged.item.known}


@pure
@given(st.lists(refs_of_one_uri, max_size=1), known_of_one_uri)
def test_gone_is_what_those_who_listed_it_last_do_not_list_any_more(refs, known):
    merged = merge(refs[0] if refs else [], known)
    listed = {ref.carried for ref in (refs[0] if refs else []) if not ref.reason}
    gone, notes = 0, []
    for value in sorted({each.carried for each in known if not each.reason}):
        # In time; of one run what it notes comes last, and only a copy of rows notes of its own.
        of_row = [k for k in known if k.carried == value and k.reason != 'bad_uri']
        last = max(of_row, key=lambda k: (k.sequence, k.reason == 'gone', k))
        if value in listed:
            notes += [(value, Note.LISTED)] * (last.reason == 'gone')
        elif last.is_same_input:
            gone += 1
            notes += [(value, Note.GONE)] * (last.reason != 'gone')
    assert (merged.gone, merged.notes) == (gone, notes)
    # What is noted once is not noted again.
    again = [Known(9, '', value, note.value, True) for value, note in notes]
    assert merge(refs[0] if refs else [], known + again).notes == []


def test_who_lists_a_part_notes_what_is_there_and_nothing_that_is_gone():
    def notes(is_part, *refs):
        known = [
            Known(1, 'v', '["x"]', '', True),
            Known(1, 'v', '["y"]', '', True),
            Known(2, '', '["y"]', 'gone', True),
        ]
        element = ('/a.jpg', {'refs': refs, 'known': known, 'access': ()})
        found = chunks._MergeDoFn(is_part).process(element)
        return [each.value for each in found if getattr(each, 'tag', '') == 'notes']

    here = Ref('/a.jpg', 'v', 1, '["y"]', '', '')
    gone = DeadLetter('/a.jpg', '', 'gone', '', -1, '["x"]')
    listed = DeadLetter('/a.jpg', '', 'listed', '', -1, '["y"]')
    assert notes(False) == [gone]
    assert notes(True) == []
    assert notes(False, here) == [gone, listed]
    assert notes(True, here) == [listed]


MEMBER = Ref('/a.tar!/1.jpg', 'v2!512+99', 99, '["x"]', '', '')


@pytest.mark.parametrize(
    ('known', 'digest'),
    [
        ([Known(1, 'v1!512+99', '["x"]', '', True, 'abc')], 'abc'),
        ([Known(1, 'v1!512+99', '["x"]', '', True, '')], ''),
        ([Known(1, 'v1!512+99', '["x"]', 'decode_error', True, '')], ''),
        ([Known(1, 'v1!512+99', '["y"]', '', True, 'abc')], ''),
        # Found to be the same under another version, since then or before.
        (
            [
                Known(1, 'v0!512+99', '["x"]', '', True, 'abc'),
                Known(2, 'v1!512+99', '["x"]', 'same', True),
            ],
            'abc',
        ),
        ([Known(2, 'v2!512+99', '["x"]', 'same', True)], ''),
        (
            [
                Known(3, 'v1!512+99', '["x"]', '', True, 'abc'),
                Known(2, 'v2!512+99', '["x"]', 'same', True),
            ],
            'abc',
        ),
    ],
)
def test_a_member_of_a_changed_file_is_known_by_its_bytes(known, digest):
    for order in itertools.permutations(known):
        merged = merge([MEMBER], order)
        assert (merged.item.version, merged.item.digest) == (MEMBER.version, digest)
        assert merged.unchanged == 0
    rows = [MEMBER, MEMBER._replace(carried='["z"]')]
    assert merge(rows, known).item.digest == '', 'the new row has no labels yet'


def test_the_version_of_the_same_bytes_is_known_next_time():
    labelled = Known(1, 'v1!0+99', '["x"]', '', True, 'abc')
    same = Known(2, MEMBER.version, '["x"]', 'same', True)
    for known in ([labelled, same], [same, labelled]):
        merged = merge([MEMBER], known)
        assert (merged.item, merged.unchanged) == (None, 1)


def test_only_members_are_known_by_their_bytes():
    ref = Ref('/1.jpg', '99-2', 99, '["x"]', '', '')
    merged = merge([ref], [Known(1, '99-1', '["x"]', '', True, 'abc')])
    assert merged.item == Item('/1.jpg', '99-2', 99, ['["x"]'])


def test_unchanged_changed_and_new_rows_of_one_image():
    refs = [Ref('/a', 'v2', 5, value, '', '') for value in ('["x"]', '["y"]', '["z"]')]
    known = [
        Known(1, 'v2', '["x"]', '', True),
        Known(1, 'v2', '["y"]', '', True),
        Known(2, 'v1', '["y"]', '', True),  # the newest counts, whatever it is
    ]
    merged = merge(refs, known)
    assert merged.item == Item('/a', 'v2', 5, ['["y"]', '["z"]'])
    assert merged.unchanged == 1
    # Without versions in the listing: read unless it is v2, and for a new row in any case.
    refs = [ref._replace(version='', size_bytes=-1) for ref in refs]
    assert merge(refs[:1], known).item.known == 'v2'
    assert merge(refs[:2], known).item.known == ''
    assert merge(refs[::2], known).item.known == ''


def test_names_alone_stay_with_others_of_their_container():
    """Its index is read for all of them, by whoever has one."""
    names = [f'gs://b/{shard}.tar!/{i}.jpg' for shard in range(20) for i in range(200)]
    buckets = 256
    by_shard = {shard: set() for shard in range(20)}
    for name in names:
        shard = int(name.split('/')[3].partition('.')[0])
        by_shard[shard].add(bucket_of(name, buckets))
    assert 1 < max(map(len, by_shard.values())) <= 8
    assert len(set().union(*by_shard.values())) > 50, 'and spread'
    (chunk,) = cut([Item(name, '', -1, []) for name in names], 10_000)
    shards = [item.uri.partition('!')[0] for item in chunk.items]
    assert shards == sorted(shards)
