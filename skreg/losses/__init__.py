"""The four losses that the regularizer is studied with: V, T, A and L."""

from skreg.losses.classification import LOSSES, Loss, LossOutput, adversarial, logit_pairing, trades, vanilla

__all__ = ["LOSSES", "Loss", "LossOutput", "adversarial", "logit_pairing", "trades", "vanilla"]
