"""Transfer sets: writing, describing, verifying and reading teachers' logits in Parquet.

Arrays in, arrays out: which teacher made the logits is for a higher floor to know.
"""

from kd_ray.transfer_set.arrange import Wanted, arrange
from kd_ray.transfer_set.basis_file import code_of, read_basis, write_basis
from kd_ray.transfer_set.columns import Columns
from kd_ray.transfer_set.compact import FEWEST_CLASSES, Basis
from kd_ray.transfer_set.fit_basis import SAMPLE_ROWS, fit_basis
from kd_ray.transfer_set.given import GivenLogits, logits_in_arrays
from kd_ray.transfer_set.logits_file import logits_sha256, open_logits
from kd_ray.transfer_set.manifest import (
    Manifest,
    bytes_per_row,
    check_fit,
    read_manifest,
    set_bytes,
    write_manifest,
)
from kd_ray.transfer_set.plan import (
    SPLITS,
    Plan,
    Shard,
    SplitName,
    SplitPlan,
    TeacherIdentity,
    image_and_view,
    index_sha256,
    shards,
)
from kd_ray.transfer_set.read import Rows, TransferSet, open_transfer_set
from kd_ray.transfer_set.shards import shard_state, write_shard
