"""Fast paths on the processor, behind plain functions: each says what it computes, and chooses how by itself.

`base.takes_fast_path` is the one predicate that chooses. Models call what is listed here; what it says is what they
compute, so that its implementation need not be read. Nothing here knows of models.
"""

from prunecast.kernels.along_time import centred as centred
from prunecast.kernels.along_time import chosen_correlation as chosen_correlation
from prunecast.kernels.along_time import ring as ring
from prunecast.kernels.along_time import ring_convolution as ring_convolution
from prunecast.kernels.along_time import rolling_sum as rolling_sum
from prunecast.kernels.attention import attend as attend
from prunecast.kernels.attention import causal_bias as causal_bias
from prunecast.kernels.attention import first_largest as first_largest
from prunecast.kernels.attention import fused_attention as fused_attention
from prunecast.kernels.attention import fuses_attention as fuses_attention
from prunecast.kernels.attention import prob_sparse_attention as prob_sparse_attention
from prunecast.kernels.base import is_plain as is_plain
from prunecast.kernels.base import plain_operators as plain_operators
from prunecast.kernels.base import takes_fast_path as takes_fast_path
from prunecast.kernels.dropout import Dropout as Dropout
from prunecast.kernels.dropout import add_norm as add_norm
from prunecast.kernels.dropout import dropout_set as dropout_set
from prunecast.kernels.dropout import feed_forward as feed_forward
from prunecast.kernels.products import Affine as Affine
from prunecast.kernels.products import Linear as Linear
from prunecast.kernels.products import linear as linear
from prunecast.kernels.products import over_time as over_time
from prunecast.kernels.products import times_each as times_each
from prunecast.kernels.products import to_series as to_series
