# SPDX-License-Identifier: Apache-2.0
"""The peers, their code and the configs that train the same student; standard library only."""

from typing import NamedTuple


class Peer(NamedTuple):
    """A student of a peer.

    Attributes:
      config: experiment of this project with the same student and the peer's objective.
      file: file of the peer's repository that defines the student, relative to its root.
      repository: where the code is published.
      dim: dimension of the embedding.
    """

    config: str
    file: str
    repository: str
    dim: int


PEERS = {
    "openshape-4": Peer(
        "openshape", "src/models/ppat.py", "github.com/Colin97/OpenShape_code", 1280
    ),
    "uni3d-b": Peer("uni3d", "models/point_encoder.py", "github.com/baaivision/Uni3D", 1024),
}
