"""Who may call what: identity from the certificate, a table of roles, deny by default."""

from __future__ import annotations

from gymnast_core.authority import authorise
from gymnast_core.wire.errors import NotPermittedError
from gymnast_core.wire.identity import Peer

_V1 = "/gymnast.v1."

ACTION_OF: dict[str, str] = {
    f"{_V1}TrajectoryService/Upload": "upload",
    f"{_V1}TrajectoryService/ListEpisodes": "look",
    f"{_V1}TrajectoryService/LabelEpisode": "label",
    f"{_V1}TrajectoryService/RetractEpisode": "retract",
    f"{_V1}WeightsService/Publish": "deliver weights",
    f"{_V1}WeightsService/Watch": "follow",
    f"{_V1}WeightsService/ListReleases": "follow",
    f"{_V1}WeightsService/Fetch": "follow",
    f"{_V1}WeightsService/Rollback": "roll back",
    f"{_V1}WeightsService/Import": "publish",
    f"{_V1}WeightsService/Why": "look",
    f"{_V1}JobService/Submit": "submit",
    f"{_V1}JobService/Get": "follow",
    f"{_V1}JobService/List": "follow",
    f"{_V1}JobService/Cancel": "cancel its own",
    f"{_V1}JobService/Events": "follow",
    f"{_V1}JobService/Claim": "work",
    f"{_V1}JobService/Report": "work",
    f"{_V1}PolicyService/Infer": "infer",
    f"{_V1}JudgeService/Judge": "judge",
    f"{_V1}JudgeService/ListPrecision": "look",
    f"{_V1}JudgeService/ListDoubts": "look",
    f"{_V1}RobotService/Report": "report",
    f"{_V1}RobotService/List": "look",
    f"{_V1}RobotService/Frame": "look",
    f"{_V1}RobotService/DropAdapter": "adapt",
    f"{_V1}CheckpointService/List": "look",
    f"{_V1}CheckpointService/Offer": "publish",
    f"{_V1}CheckpointService/Promote": "promote",
    f"{_V1}CheckpointService/Gate": "gate",
    f"{_V1}CheckpointService/Gates": "look",
    f"{_V1}AdaptationService/Begin": "adapt its own",
    f"{_V1}AdaptationService/Get": "follow",
    f"{_V1}AdaptationService/List": "follow",
    f"{_V1}AdaptationService/Step": "adapt its own",
    f"{_V1}AdaptationService/Picture": "look",
    f"{_V1}TrialService/Begin": "try",
    f"{_V1}TrialService/Get": "look",
    f"{_V1}TrialService/List": "look",
    f"{_V1}TrialService/Stop": "try",
    f"{_V1}TrialService/Cards": "look",
    f"{_V1}LoopService/Begin": "loop",
    f"{_V1}LoopService/Get": "look",
    f"{_V1}LoopService/List": "look",
    f"{_V1}LoopService/Watch": "look",
    f"{_V1}LoopService/Stop": "loop",
    f"{_V1}PageService/Raise": "report",
    f"{_V1}PageService/List": "look",
    f"{_V1}PageService/Acknowledge": "acknowledge",
    f"{_V1}PageService/Test": "test pages",
    f"{_V1}QueueService/Add": "queue",
    f"{_V1}QueueService/Get": "follow",
    f"{_V1}QueueService/List": "follow",
    f"{_V1}QueueService/Starts": "follow",
    f"{_V1}QueueService/Pause": "queue",
    f"{_V1}QueueService/Resume": "queue",
    f"{_V1}QueueService/Cancel": "queue",
    f"{_V1}QueueService/Move": "queue",
    f"{_V1}LogService/List": "look",
    f"{_V1}LogService/Ledger": "look",
    f"{_V1}EnrollService/Enroll": "enroll",
    f"{_V1}EnrollService/ListRevoked": "look",
    f"{_V1}ConsoleService/LogIn": "log in",
    "/grpc.health.v1.Health/Check": "follow",
    "/grpc.health.v1.Health/List": "follow",
    "/grpc.health.v1.Health/Watch": "follow",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "inspect",
}
"""Method -> action (gymnast_core.authority). A method that is not listed is refused to everybody; a test walks every
registered service."""

INSECURE_PEER = Peer(name="insecure", role="admin", tenant="default")


def authorise_call(method: str, peer: Peer | None) -> Peer:
    """Return the peer if it may call the method.

    Raises:
        NotPermittedError: no certificate of ours, an unlisted method, or another role is needed.
    """
    action = ACTION_OF.get(method)
    if action is None:
        raise NotPermittedError(f"{method[:120]} is no method of this service")
    try:
        return authorise(peer, action)
    except NotPermittedError as error:
        raise NotPermittedError(f"{error} (method {method})") from error
