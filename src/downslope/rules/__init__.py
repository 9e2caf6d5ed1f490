"""How a gradient becomes a direction: each rule written once, for every framework."""

from downslope.ops.protocol import Ops
from downslope.rules.adagrad import AdaGrad
from downslope.rules.adam import Adam
from downslope.rules.descent import step
from downslope.rules.muon import Muon
from downslope.rules.orthogonalize import orthogonalize
from downslope.rules.rmsprop import RMSProp
from downslope.rules.rule import Rule
from downslope.rules.sgd import SGD

__all__ = ["SGD", "AdaGrad", "Adam", "Muon", "Ops", "RMSProp", "Rule", "orthogonalize", "step"]
