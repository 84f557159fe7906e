"""`attnorm hub`: a folder in timm's layout, and from there to the hub."""

from attnorm.hub.config import HubConfig
from attnorm.hub.folder import save_pretrained
from attnorm.hub.push import plan_upload, upload


def hub(config: HubConfig) -> list[str]:
    """Write the folder, upload it, or both.

    Args:
        config: What to do.

    Returns:
        What was done, in lines for a person.

    Raises:
        ConfigError: Something of this cannot be meant.
        CheckpointError: The network cannot be used.
        JobError: The hub refuses or cannot be reached.
    """
    lines: list[str] = []
    if config.checkpoint is not None:
        assert config.licence is not None
        save_pretrained(
            config.checkpoint,
            config.output,
            licence=config.licence,
            name=config.push,
            record=config.record,
            compare=config.compare,
        )
        lines = [f"written      {config.output}: config.json, model.safetensors and the card, README.md"]
    if config.push is None:
        return [*lines, f"to use it    --checkpoint local-dir:{config.output}, in every command"]
    plan = plan_upload(config.output, config.push, private=not config.public, revision=config.revision)
    if not config.yes:
        return [
            *lines,
            "would upload " + "\n".join(plan.lines()),
            "nothing was uploaded: read the card, then add --yes",
        ]
    return [*lines, "uploaded     " + "\n".join(plan.lines()), f"it is at     {upload(plan)}"]
