"""The feature store: flat chunk files that any Zarr or HDF5 reader opens, and an index that says whose rows they are.

with StoreWriter(path, fields, dim=768) as writer:      # resumes what is there
    writer.append("clip1", values, content_hash)        # values: (time, 768)
    writer.commit()

store = Store(path)
store["clip1"]                                          # (time, 768), memory-mapped
"""

from cache.checksums import attach, read_small
from cache.disk.folders import (
    copy_published,
    is_published,
    publish_folder,
    read_published,
    verify_published,
    verify_whole,
    write_sums,
)
from cache.disk.locks import claimed, writing_process
from cache.disk.seals import read_sealed_json, read_sealed_parquet, write_sealed_json, write_sealed_parquet
from cache.disk.unfinished import begin, end
from cache.disk.writing import (
    StoreError,
    parquet_bytes,
    replace_atomically,
    writable,
    write_atomically,
    write_text_atomically,
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
    "claimed",
    "copy_published",
    "differing_fields",
    "end",
    "fingerprint",
    "is_published",
    "parquet_bytes",
    "publish_folder",
    "read_published",
    "read_sealed_json",
    "read_sealed_parquet",
    "read_small",
    "replace_atomically",
    "settings_header",
    "verify_published",
    "verify_whole",
    "writable",
    "write_atomically",
    "write_sealed_json",
    "write_sealed_parquet",
    "write_sums",
    "write_text_atomically",
    "writing_process",
]
