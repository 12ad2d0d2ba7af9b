"""The `megaphone` command with every verb, for its help, its documents and its tests.

Flow: `verbs` -> [app]. Who names a verb gets that one alone, from `entry`.
"""

from __future__ import annotations

from service.verbs import VERBS, assembled

app = assembled(VERBS)
