"""The feature store: flat chunk files that any Zarr or HDF5 reader opens, and an index that says whose rows they are.

with StoreWriter(path, fields, dim=768) as writer:      # resumes what is there
    writer.append("clip1", values, content_hash)        # values: (time, 768)
    writer.commit()

store = Store(path)
store["clip1"]                                          # (time, 768), memory-mapped
"""

from cache.files import (
    StoreError,
    attach,
    begin,
    end,
    replace_atomically,
    replace_folder,
    write_atomically,
    write_text_atomically,
    writing_process,
)
from cache.layout import Header, all_finite, differing_fields, fingerprint, settings_header
from cache.store import Store
from cache.writer import StoreWriter, WriterMark

__all__ = [
    "Header",
    "Store",
    "StoreError",
    "StoreWriter",
    "WriterMark",
    "all_finite",
    "attach",
    "begin",
    "differing_fields",
    "end",
    "fingerprint",
    "replace_atomically",
    "replace_folder",
    "settings_header",
    "write_atomically",
    "write_text_atomically",
    "writing_process",
]
