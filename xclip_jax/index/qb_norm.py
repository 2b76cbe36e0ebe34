"""QB-Norm: scores set against those of a bank of other queries (Bogolin et al., arXiv 2112.12777).

Videos near the middle of everything, hubs, are close to many queries. The dynamic inverted softmax
divides a query's exp(score) of each video by the sum of the bank's: what all queries like counts
less. It is applied only to a query whose first answer is the first answer of a query of the bank
too: for others the bank says nothing. The bank must not be the queries that are asked: all of a
test set's at once is dual softmax, which a search does not have.
"""

import numpy as np

BETA = 20.0  # of cosines, as the paper's code has it


def normalize(scores: np.ndarray, bank: np.ndarray, *, beta: float) -> np.ndarray:
    """Returns the logarithm of the inverted softmax, over beta: scores minus what the bank makes of
    each video.

    Args:
        scores: [T, V] of the queries.
        bank: [B, V], the same videos scored by the bank.
        beta: inverse temperature, in units of one over the scores'.
    """
    logits = beta * bank.astype(np.float64)
    highest = logits.max(axis=0)
    total = highest + np.log(np.exp(logits - highest).sum(axis=0))
    return (scores - total / beta).astype(np.float32)
