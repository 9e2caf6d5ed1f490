"""Names of operations, by what they do to labels."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Sums, and choices between tensors.
ADD = _words("""
    add add_ addcdiv addcdiv_ addcmul addcmul_ hypot lerp lerp_ logaddexp masked_fill masked_fill_
    maximum minimum rsub sub sub_ where
""")

# Products.
SCALE = _words("""
    __rpow__ _prelu_kernel div div_ float_power mul mul_ pow prelu
""")

# Normalisations, with a gain and a bias.
NORMS = _words("""
    _batch_norm_with_update _fused_rms_norm _native_batch_norm_legit
    _native_batch_norm_legit_functional _native_batch_norm_legit_no_training batch_norm
    cudnn_batch_norm group_norm instance_norm layer_norm miopen_batch_norm native_batch_norm
    native_group_norm native_layer_norm rms_norm
""")

# Tensors side by side, or one written into another, or with a border.
JOIN = _words("""
    _index_put_impl_ block_diag cat complex concat constant_pad_nd copy_ hstack index_add index_add_
    index_copy index_put index_put_ index_reduce masked_scatter masked_scatter_ meshgrid reflection_pad1d
    reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d scatter
    scatter_ scatter_add scatter_add_ scatter_reduce scatter_reduce_ select_scatter slice_scatter
    stack vstack
""")

# One tensor, each entry moved or scaled alone.
SHIFTING = _words("""
    _fused_dropout alpha_dropout dropout fill_ nan_to_num native_dropout neg
""")

# One tensor, whose entries no longer stand each for one output.
MIXING = _words("""
    _fft_c2c _fft_c2r _fft_r2c _log_softmax _safe_softmax _softmax cumsum flip log_softmax
    max_pool2d_with_indices roll softmax sort
""")

# Sums and other reductions.
REDUCING = _words("""
    all amax amin any count_nonzero cumsum linalg_vector_norm logsumexp mean norm prod std std_mean
    sum var var_mean
""")

# Rankings: values and the indices of the winners.
RANKING = _words("""
    argmax argmin argsort kthvalue max min multinomial sort topk
""")

# Lookups that take an index as arrays do.
INDEXING = _words("""
    _unsafe_index gather index index_select
""")

# New tensors that hold no data.
FACTORIES = _words("""
    arange bernoulli bernoulli_ empty empty_like empty_strided eye full full_like linspace logspace
    new_empty new_empty_strided new_full new_ones new_zeros ones ones_like scalar_tensor
    tril_indices triu_indices zero_ zeros zeros_like
""")

# Lookups, and the argument that is looked up in.
LOOKUP = {
    "embedding": "weight",
    "_embedding_bag": "weight",
    "_embedding_bag_forward_only": "weight",
    "index": "self",
    "index_select": "self",
    "gather": "self",
    "take": "self",
    "take_along_dim": "self",
    "_unsafe_index": "self",
    "masked_select": "self",
    "embedding_bag": "weight",
    "grid_sampler_2d": "input",
    "grid_sampler_3d": "input",
}
