"""The index over the vectors of videos, past a number of them, and the merging of small files.

It is IVF with RaBitQ's codes of one bit a dimension, all partitions of which are looked into. Of
1,000,000 clustered vectors, on two cores, it was made in 31 s and answered in 19 ms with all of the
10 nearest among 256; four bits took 63 s and 44 ms, and 20 of the 122 partitions alone lost 4 of
10. Of 60,000, IVF_PQ of 64 bytes took 35 s to make and IVF_HNSW_SQ 56 s, RaBitQ's 1 s. What it
finds is scored anew, and what it does not know yet LanceDB compares one by one.

Each commit is a file, and candidates lie all over: of 1,000,000 videos of 13 KB in 200 files 256
were read in 23 ms, and in 12 ms from one. To merge them took 102 s.
"""

from datetime import timedelta

from xclip_jax.index.store import Index

# Fewer videos than this are all compared, in about ten milliseconds on two cores; as many new ones
# make the index be made anew.
ROWS = 20_000
NAME, BITS = "video_idx", 1  # bits a dimension
MOST_FILES, ROWS_A_FILE = 32, 2**16  # beyond so many, of fewer rows, files are merged
KEPT = timedelta(hours=1)  # a file that has been merged serves searches under way


def tidy(index: Index) -> None:
    """Does both, where it is time."""
    from lancedb.index import IvfRq

    made = any(found.name == NAME for found in index.videos.list_indices())
    count = index.videos.count_rows()
    new = index.videos.index_stats(NAME).num_unindexed_rows if made else count
    if new >= ROWS:
        config = IvfRq(distance_type="dot", num_bits=BITS)
        index.videos.create_index("video", config=config, name=NAME, replace=True)
    # Merging writes all rows anew, a million a file: seldom, then. What was merged this time is
    # deleted the next time.
    files = index.videos.stats()["fragment_stats"]["num_fragments"]
    if files > MOST_FILES + count // ROWS_A_FILE:
        index.videos.optimize(cleanup_older_than=KEPT)
