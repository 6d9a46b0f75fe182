# SPDX-License-Identifier: Apache-2.0
"""Captions from files of their own, joined by id to the shapes of any source.

`--captions FILE:KIND` of `data_prep.build`. Captions are joined behind the shapes stage: their
features are in files of their own, one per shard (`encoding`), which `records` reads beside the
features of pictures. So a changed caption file prepares no shape and encodes no picture again.
"""

from data_prep.captions.joining import FILTER, KINDS, CaptionFile, Captions, join, parse

__all__ = ["FILTER", "KINDS", "CaptionFile", "Captions", "join", "parse"]
