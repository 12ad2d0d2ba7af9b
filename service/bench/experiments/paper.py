"""What the paper prints, for comparison; Hoffmann et al., "Megaphone", VLDB 2019.

Pure data. Its overhead tables have the columns 90 %, 99 %, 99.99 % and max. The released scripts
compute the third where one record of a thousand is slower, so it is 99.9 %; and every value is the
edge of a bucket of 6.25 %. 16 workers on 4 machines, 4 M records/s in all.
"""

from __future__ import annotations

#: Columns of the tables, under the names that they should have.
COLUMNS = ("p90", "p99", "p99.9", "max")
#: Share of records that is slower, for each column but the last.
SLOWER = (0.1, 0.01, 0.001)

#: log2 of the bins, None for native -> ms.
Table = dict[int | None, tuple[float, float, float, float]]

HASH_COUNT: Table = {
    4: (4.46, 7.60, 18.87, 25.17),
    6: (4.46, 6.55, 13.11, 26.21),
    8: (4.46, 6.03, 9.96, 16.78),
    10: (4.19, 6.82, 16.25, 23.07),
    12: (4.98, 7.08, 19.92, 24.12),
    14: (8.13, 11.53, 23.07, 30.41),
    16: (20.97, 27.26, 60.82, 83.89),
    18: (159.38, 192.94, 209.72, 226.49),
    20: (1140.85, 1409.29, 1476.40, 1543.50),
    None: (1.64, 2.88, 12.06, 19.92),
}
KEY_COUNT: Table = {
    4: (1.64, 3.67, 12.58, 19.92),
    6: (1.64, 2.75, 11.01, 20.97),
    8: (1.70, 2.49, 9.44, 19.92),
    10: (1.70, 2.36, 7.08, 15.20),
    12: (1.77, 2.88, 9.96, 20.97),
    14: (2.49, 4.46, 7.86, 19.92),
    16: (22.02, 26.21, 32.51, 46.14),
    18: (234.88, 268.44, 301.99, 335.54),
    20: (838.86, 1610.61, 1879.05, 1946.16),
    None: (1.51, 1.70, 4.46, 14.16),
}

#: By group: what the paper's figure shows, in our words.
SAYS = {
    "overhead-hash": "hash-count, 256 M keys: p99 between 6 and 7 ms up to 2^12 bins, 27 ms at "
    "2^16 and 1.4 s at 2^20; 2.9 ms without bins.",
    "overhead-vec": "key-count, 256 M keys: p99 between 2.4 and 3.7 ms up to 2^12 bins, 26 ms at "
    "2^16 and 1.6 s at 2^20; 1.7 ms without bins.",
    "timeline": "Figure 1: a move of 1 G of 4,096 M keys. All-at-once stands orders of magnitude "
    "above the others; the text has no number.",
    "bins": "Figure 16: more bins lower the peak of fluid and batched moves and do not lengthen "
    "them; all-at-once does not depend on bins.",
    "domain": "Figure 17: peak and duration grow with the state; all-at-once has the highest peak "
    "and the shortest move, fluid the lowest and the longest, batched is near the best of both.",
    "domain-hash": "The same for hash-count.",
    "keys-per-bin": "Figure 18: with as many keys in each bin, the peak of fluid and batched moves "
    "stays, and only their duration grows; for all-at-once both grow.",
    "rate": "Figure 19: flat up to 16 M records/s, overloaded at 32 M; fluid and batched keep a "
    "second's latency up to 4 M records/s, 10 to 100 times below all-at-once.",
    "memory": "Figure 20: 35 GiB a process at rest; fluid and batched stay there, all-at-once "
    "takes about 30 GiB more during each move.",
}
