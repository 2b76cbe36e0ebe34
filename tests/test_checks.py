"""The net under the other tests holds: signatures are checked, deprecations are errors."""

import warnings

import jax.numpy as jnp
import jaxtyping
import pytest

from xclip_jax import losses
from xclip_jax.models import clip, temporal


def test_an_array_of_another_shape_than_the_signature_says_is_an_error():
    with pytest.raises(jaxtyping.TypeCheckError):
        losses.symmetric(jnp.zeros((3, 4)))
    with pytest.raises(jaxtyping.TypeCheckError):
        temporal.pool(jnp.zeros((2, 3, 4)), jnp.zeros((2, 4), bool))


def test_an_array_of_another_type_than_the_signature_says_is_an_error():
    with pytest.raises(jaxtyping.TypeCheckError):
        clip.patchify(jnp.zeros((2, 4, 4, 3), jnp.int32), 2)
    with pytest.raises(jaxtyping.TypeCheckError):
        temporal.pool(jnp.zeros((2, 3, 4)), jnp.zeros((2, 3), jnp.int32))


@pytest.mark.parametrize("module", ["xclip_jax.train", "xclip_jax.data.build", "jax.fake", "fake"])
@pytest.mark.parametrize("kind", [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
def test_a_deprecation_is_an_error_whoever_meets_it(module, kind):
    with pytest.raises(kind, match="old"):
        exec("warnings.warn('old', kind)", {"__name__": module, "warnings": warnings, "kind": kind})
