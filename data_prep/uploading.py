# SPDX-License-Identifier: Apache-2.0
"""Copies a finished data set into a bucket, where array_record cannot write."""

from data_prep.options import Options
from mrd_jax import storage, transfer
from mrd_jax.data import dataset_metadata


def announce(options: Options) -> None:
    """Prints where a build works and how much space it has.

    Args:
      options: options of the build, with `upload`.
    """
    free = transfer.free_space(options.output)
    print(
        f"working in {options.output}, {free / 1e9:.1f} GB free; {options.target.name} is uploaded "
        f"to {options.upload_target} at the end; --staging chooses another disk"
    )


def upload(options: Options) -> None:
    """Uploads the data set; files that are there already are kept, so that it can be repeated.

    Readers take a folder for a data set once it has `dataset_info.json`, which is uploaded last.

    Args:
      options: options of the build, with `upload`; its data set is complete.

    Raises:
      transfer.TransferError: an uploaded file differs from the local one.
    """
    target = options.upload_target
    assert target is not None, "upload needs Options.upload"
    uploaded = transfer.publish(
        options.target, target, last=dataset_metadata.INFO_FILES[0], progress=True
    )
    names = set(storage.files(storage.path(options.target)))
    for name in transfer.listing(target).keys() - names:
        if name.startswith("evaluation/") or "array_record" in name:  # replaced by this data set
            (target / name).unlink(missing_ok=True)
    print(f"{uploaded} of {len(names)} files uploaded to {target}, sizes and checksums compared")
