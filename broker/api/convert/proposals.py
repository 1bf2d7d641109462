"""Previews and proposals, to the wire."""

from __future__ import annotations

from broker.api.convert.enums import CONFIRM_OUTCOME, PROPOSAL_STATE
from broker.api.convert.revocations import head, selector_message
from broker.api.convert.scalars import to_timestamp
from broker.model.proposal import Preview, Proposal
from broker.model.requests import ConfirmAnswer, RevokeAnswer
from lockstep.v1 import revocation_pb2 as pb


def preview(noun: Preview) -> pb.Preview:
    """What is hit, with the instances that it names."""
    return pb.Preview(
        position=head(noun.head),
        attestations=len(noun.attestations),
        leases=noun.leases,
        digest=noun.digest,
        instances=[
            pb.PreviewInstance(
                attestation_id=item.attestation_id,
                identity=item.identity,
                roles=item.roles,
                leases=item.leases,
            )
            for item in noun.instances
        ],
    )


def proposal(noun: Proposal) -> pb.Proposal:
    """A revocation that takes more than one operator."""
    return pb.Proposal(
        proposal_id=noun.id,
        state=PROPOSAL_STATE.wire(noun.state),
        selector=selector_message(noun.selector),
        ban=noun.ban,
        until=None if noun.until is None else to_timestamp(noun.until),
        reason=noun.reason,
        ticket=noun.ticket,
        at=to_timestamp(noun.at),
        expires_at=to_timestamp(noun.expires_at),
        needs=noun.needs,
        agreed=[pb.Agreement(actor=item.actor, at=to_timestamp(item.at)) for item in noun.agreed],
        preview=preview(noun.preview),
        decision_id=noun.decision_id,
        ended_by=noun.ended_by,
        ended_at=to_timestamp(noun.ended_at) if noun.ended_at else None,
        ended_reason=noun.ended_reason,
    )


def revoked(noun: RevokeAnswer) -> pb.RevokeResponse:
    """What was revoked, or would be."""
    return pb.RevokeResponse(
        revocation_id=noun.revocation_id,
        decision_id=noun.decision_id,
        position=head(noun.head),
        attestations=noun.attestations,
        leases=noun.leases,
        preview=None if noun.preview is None else preview(noun.preview),
    )


def proposed(noun: Proposal) -> pb.RevokeResponse:
    """What is only proposed has no revocation yet."""
    return pb.RevokeResponse(
        decision_id=noun.decision_id,
        position=head(noun.preview.head),
        attestations=len(noun.preview.attestations),
        leases=noun.preview.leases,
        preview=preview(noun.preview),
        proposal=proposal(noun),
    )


def confirm_response(noun: ConfirmAnswer) -> pb.ConfirmRevocationResponse:
    """What became of an agreement."""
    return pb.ConfirmRevocationResponse(
        outcome=CONFIRM_OUTCOME.wire(noun.outcome),
        proposal=proposal(noun.proposal),
        revocation=None if noun.answer is None else revoked(noun.answer),
        before=None if noun.before is None else preview(noun.before),
    )
