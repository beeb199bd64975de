"""The tasks of the benchmark.

No weights that this package ships were trained or selected on them. Their data is embedded in a
package that the extra "meta" installs, comes with Python, or is generated.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from meta_train.evaluation.benchmark.tasks import functions, images, tables, text
from meta_train.evaluation.benchmark.workload import BenchmarkTask

LOSS = "loss"

VERSION = 1
"""Raise it when a task changes: results of another version are not continued."""

_ALL = (
    BenchmarkTask("mnist1d-mlp", "MLP, MNIST-1D", images.mnist1d_mlp, 2000, 64),
    BenchmarkTask("mnist1d-conv", "conv net, MNIST-1D", images.mnist1d_conv, 2000, 64),
    BenchmarkTask("batch-4", "the MLP, batches of 4", images.mnist1d_mlp, 2000, 4),
    BenchmarkTask("batch-2000", "tanh MLP, batches of 2000", images.mnist1d_tanh, 1000, 2000),
    BenchmarkTask("rescaled", "MLP, tensors rescaled by 10", images.rescaled_mlp, 2000, 64),
    BenchmarkTask("init-times-4", "deep tanh MLP, init x 4", images.deep_tanh_times_4, 2000, 64),
    BenchmarkTask("conv", "conv net, textures", images.textures_conv, 1000, 32),
    BenchmarkTask("batch-norm", "conv net, batch norm", images.textures_batch_norm, 1000, 32),
    BenchmarkTask("residual", "residual net", images.textures_residual, 1000, 32),
    BenchmarkTask("vit", "vision transformer", images.textures_vit, 1000, 32),
    BenchmarkTask("autoencoder", "autoencoder, photo", images.photo_autoencoder, 2000, 64, LOSS),
    BenchmarkTask("implicit-image", "implicit image", images.implicit_image, 2000, None, LOSS),
    BenchmarkTask("char-gru", "char GRU", text.char_gru, 1000, 16, LOSS),
    BenchmarkTask("skip-gram", "skip-gram", text.skip_gram, 1000, 128, LOSS),
    BenchmarkTask("diabetes", "MLP, diabetes", tables.diabetes, 1000, 32, LOSS),
    BenchmarkTask("friedman", "MLP, Friedman's function", tables.friedman, 2000, 64, LOSS),
    BenchmarkTask("teacher", "MLP, noisy teacher", tables.teacher, 2000, 64),
    BenchmarkTask("logistic", "logistic regression", tables.breast_cancer, 1000, 64),
    BenchmarkTask("pinn", "PINN, Poisson", functions.poisson_pinn, 2000, None, LOSS),
    BenchmarkTask("quadratic", "noisy quadratic", functions.noisy_quadratic, 1000, 16, LOSS),
    BenchmarkTask("stretched", "linear, stretched", functions.stretched_regression, 1000, 64, LOSS),
    BenchmarkTask("ratings", "factorisation", tables.ratings, 1000, 1024, LOSS, True),
    BenchmarkTask("char-mlp", "MLP, characters", text.char_mlp, 1000, 128, LOSS, True),
    BenchmarkTask("char-gpt", "GPT-2-like, characters", text.char_gpt, 1000, 16, LOSS, True),
)

TASKS: Mapping[str, BenchmarkTask] = MappingProxyType({task.name: task for task in _ALL})
"""The tasks by name; the large ones, of a minute or more a run, come last."""
