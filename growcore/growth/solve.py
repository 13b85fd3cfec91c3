"""The optimal update and the optimal new neurons of a layer: pure functions of its statistics.

Letters: S second moment of a layer's input, M its correlation with the gradient of the pre-activation, N
the correlation of the previous layer's input with what the layer itself cannot correct. Sizes: i inputs
of the layer (bias included), p inputs of the previous layer (bias included), o outputs, k new neurons.
Verbockhaven et al., "Growing Tiny Networks", arXiv:2405.19816.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class NewNeurons:
    """k neurons: alpha (k, p) into them, omega (o, k) out of them, singular values (k,), largest first."""

    alpha: Tensor
    omega: Tensor
    eigenvalues: Tensor


def optimal_delta(
    S_ii: Tensor,
    M_io: Tensor,
    dtype: torch.dtype = torch.float32,
    force_pseudo_inverse: bool = False,
    relative_ridge: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The step delta = (S^-1 M)^T that decreases the loss fastest per unit of change of the pre-activation.

    A singular S is solved by its pseudo-inverse, in float64 if the decrease then still comes out negative,
    and delta is zero if even that fails.

    Args:
        S_ii: symmetric positive semi-definite.
        M_io: correlation of the input with the gradient of the pre-activation.
        dtype: precision of the solution.
        force_pseudo_inverse: never try to solve directly.
        relative_ridge: multiple of the mean diagonal entry of S that is added to the diagonal.

    Returns:
        delta (o, i) and the first-order decrease tr(M delta) of the loss per unit step, in M's dtype.

    Raises:
        ValueError: S or M holds NaN or infinity, or their shapes do not fit.
    """
    _check_statistics(S_ii, M_io, "M")
    S = with_ridge(S_ii.to(dtype), relative_ridge)
    M = M_io.to(dtype)
    delta = None if force_pseudo_inverse else _solve(S, M)
    if delta is None:
        delta = torch.linalg.pinv(S, hermitian=True) @ M
    decrease = (M * delta).sum()
    if not decrease >= 0:
        S, M = S.double(), M.double()
        delta = torch.linalg.pinv(S, hermitian=True) @ M
        decrease = (M * delta).sum()
    if not decrease >= 0:
        delta, decrease = torch.zeros_like(delta), torch.zeros_like(decrease)
    return delta.T.to(M_io.dtype), decrease.to(M_io.dtype)


def optimal_new_neurons(
    S_pp: Tensor | None,
    N_po: Tensor,
    numerical_threshold: float = 1e-15,
    statistical_threshold: float = 1e-3,
    maximum_added_neurons: int | None = None,
    relative_thresholds: bool = False,
    relative_ridge: float = 0.0,
) -> NewNeurons:
    """The neurons between two layers that decrease the loss fastest at first order.

    With S^(-1/2) N = U Lambda V^T: alpha = sqrt(Lambda) U^T S^(-1/2), omega = V sqrt(Lambda), so that
    alpha S alpha^T = Lambda = omega^T omega.

    Args:
        S_pp: second moment of the previous layer's input; None stands for the identity.
        N_po: the correlation new neurons should produce.
        numerical_threshold: eigenvalues of S at or below it are dropped, and so are those lost in rounding.
        statistical_threshold: singular values below it are dropped, but the largest stays unless it is 0:
            where N is 0 there is nothing new neurons could correct.
        maximum_added_neurons: at most so many; None: no limit.
        relative_thresholds: both thresholds are fractions of the largest value.
        relative_ridge: multiple of the mean diagonal entry of S that is added to the diagonal.

    Raises:
        ValueError: S or N holds NaN or infinity, the shapes do not fit, or the maximum is negative.
    """
    if maximum_added_neurons is not None and maximum_added_neurons < 0:
        raise ValueError(
            f"maximum_added_neurons must not be negative; got {maximum_added_neurons}. Use None for no limit."
        )
    if S_pp is None:
        _check_finite(N_po, "N")
        P = N_po
    else:
        _check_statistics(S_pp, N_po, "N")
        S = with_ridge(S_pp, relative_ridge)
        whitener = inverse_square_root(S, numerical_threshold, relative_thresholds)
        P = whitener @ N_po
    U, Lambda, Vh = torch.linalg.svd(P, full_matrices=False)
    keep = _significant(Lambda, statistical_threshold, relative_thresholds, maximum_added_neurons)
    root = Lambda[:keep].sqrt()
    alpha = root[:, None] * U[:, :keep].T
    if S_pp is not None:
        alpha = alpha @ whitener
    return NewNeurons(alpha, Vh[:keep].T * root, Lambda[:keep])


def inverse_square_root(S: Tensor, threshold: float, relative: bool = False) -> Tensor:
    """Symmetric S^(-1/2) on the eigenvalues above a threshold, zero on the others.

    Eigenvalues below the rounding error of the largest carry no information and are dropped whatever the
    threshold is.
    """
    eigenvalues, vectors = torch.linalg.eigh(S)
    if eigenvalues.numel() == 0:
        return S.clone()
    largest = float(eigenvalues[-1])
    rounding = torch.finfo(S.dtype).eps * largest
    floor = max(threshold * largest if relative else threshold, rounding)
    keep = eigenvalues > floor
    vectors = vectors[:, keep]
    inverse: Tensor = (vectors * eigenvalues[keep].rsqrt()) @ vectors.T
    return inverse


def with_ridge(S: Tensor, relative_ridge: float) -> Tensor:
    """S with `relative_ridge` times its mean diagonal entry added to the diagonal."""
    if relative_ridge < 0:
        raise ValueError(f"relative_ridge must not be negative; got {relative_ridge}. Use 0 for none.")
    if relative_ridge == 0:
        return S
    ridge = relative_ridge * S.diagonal().mean()
    return S + ridge * torch.eye(S.shape[0], dtype=S.dtype, device=S.device)


def _solve(S: Tensor, M: Tensor) -> Tensor | None:
    """S^-1 M, or None where S is not positive definite to rounding."""
    factor, failed = torch.linalg.cholesky_ex(S)
    if int(failed) != 0:
        return None
    solution = torch.cholesky_solve(M, factor)
    return solution if bool(solution.isfinite().all()) else None


def _significant(values: Tensor, threshold: float, relative: bool, maximum: int | None) -> int:
    """How many of the descending singular values to keep."""
    if values.numel() == 0:
        return 0
    largest = float(values[0])
    if largest == 0:
        return 0
    floor = threshold * largest if relative else threshold
    num_kept = max(int((values >= min(floor, largest)).sum()), 1)
    return num_kept if maximum is None else min(num_kept, maximum)


def _check_statistics(S: Tensor, right: Tensor, name: str) -> None:
    if S.ndim != 2 or S.shape[0] != S.shape[1] or right.ndim != 2 or right.shape[0] != S.shape[0]:
        raise ValueError(
            f"S must be square and {name} must have as many rows; "
            f"got S {tuple(S.shape)} and {name} {tuple(right.shape)}."
        )
    _check_finite(S, "S")
    _check_finite(right, name)


def _check_finite(tensor: Tensor, name: str) -> None:
    if not bool(tensor.isfinite().all()):
        num_bad = int((~tensor.isfinite()).sum())
        raise ValueError(
            f"The statistic {name} must be finite; {num_bad} of its {tensor.numel()} entries are NaN or "
            f"infinite. Check the loss and the inputs of the batches the statistics were gathered on."
        )
