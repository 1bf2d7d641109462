"""DecisionService: why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from broker.api.arrival import Call
from broker.api.convert import decisions as convert
from broker.api.convert.scalars import text
from broker.api.routes import Route, Unary, by_attestation
from broker.model.caller import IdentityCaller, OperatorCaller, WorkloadCaller
from broker.model.requests import Explanation
from lockstep.v1 import decision_pb2 as pb


class Explainer(Protocol):
    """What this room needs of `broker.explain.Explainer`."""

    async def explain(
        self,
        caller: WorkloadCaller | OperatorCaller | IdentityCaller,
        decision_id: str,
        include_code_set: bool,
    ) -> Explanation: ...


class DecisionRoom:
    """One question."""

    def __init__(self, explainer: Explainer) -> None:
        self._explainer = explainer

    def routes(self) -> Mapping[str, Route]:
        """Full method to route."""
        return {
            "/lockstep.v1.DecisionService/ExplainDecision": Unary(
                pb.ExplainDecisionRequest, self.explain, by_attestation
            )
        }

    async def explain(
        self,
        request: pb.ExplainDecisionRequest,
        call: Call[WorkloadCaller | OperatorCaller | IdentityCaller],
    ) -> pb.ExplainDecisionResponse:
        """A decision, for whom it concerns."""
        decision = text(request.decision_id, "decision_id", 128, empty=False)
        answer = await self._explainer.explain(call.caller, decision, request.include_code_set)
        return convert.explain_response(answer)
