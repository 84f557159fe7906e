"""The door for a person: `attnorm COMMAND ...`.

Nothing heavy is imported before a command runs, so that the help answers at once.
"""

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from attnorm import __version__
from attnorm.errors import ConfigError, JobError, PeerError, shown
from attnorm.extras import naming_extras
from attnorm.training.launcher import rank_prefix, tell_launcher, watch_launcher

DONE, FAILED, WRONG_ARGUMENTS, INTERRUPTED = 0, 1, 2, 130


def _models(arguments: Sequence[str]) -> int:
    from attnorm.options import parse_settings
    from attnorm.training.use_config import ModelsConfig

    config = parse_settings(ModelsConfig, arguments, command="attnorm models")
    if config.describe is not None:
        from attnorm.evidence.structure import show_structure

        show_structure(config.describe, config.plot)
        return DONE
    from attnorm.training.catalogue import print_models

    print_models(config)
    return DONE


def _train(arguments: Sequence[str]) -> int:
    from attnorm.options import parse_settings
    from attnorm.training.checks import check_recipe
    from attnorm.training.config import TrainConfig

    config = parse_settings(TrainConfig, arguments, command="attnorm train", recipe=True)
    check_recipe(config)  # as `fit` does, but before the seconds that Lightning takes to be imported
    if config.dry_run:
        from attnorm.training.dry_run import dry_run

        lines = dry_run(config)
        if os.environ.get("RANK", "0") == "0":
            print("\n".join(lines))
        return DONE
    from attnorm.training.loop import fit

    record = fit(config)
    if os.environ.get("RANK", "0") == "0":
        print(f"{record.summary()}; results in {config.output}")
    return DONE


def _eval(arguments: Sequence[str]) -> int:
    from attnorm.options import parse_settings
    from attnorm.training.use_config import EvalConfig

    config = parse_settings(EvalConfig, arguments, command="attnorm eval")
    if config.checkpoint is None:
        from attnorm.training.inference_detection import evaluate_predictions

        result = evaluate_predictions(config)
    else:
        from attnorm.training.inference import evaluate_checkpoint

        result = evaluate_checkpoint(config)
    if os.environ.get("RANK", "0") == "0":
        print("\n".join(_described(result, config.per_category)))
    return DONE


def _described(result: dict[str, Any], per_category: bool) -> list[str]:
    if "per_category" in result:
        from attnorm.training.inference_detection import describe

        return describe(result, per_category=per_category)
    from attnorm.training.inference import describe

    return describe(result)


def _predict(arguments: Sequence[str]) -> int:
    from attnorm.options import parse_settings
    from attnorm.training.use_config import PredictConfig

    config = parse_settings(PredictConfig, arguments, command="attnorm predict")
    from attnorm.training.predict import predict

    result = predict(config)
    count, unreadable = len(result["predictions"]), result["unreadable"]
    print(f"{count} images: results in {config.output}")
    if unreadable:
        raise JobError(
            f"{len(unreadable)} of {count + len(unreadable)} images could not be read: "
            f"{', '.join(shown(name, 200) for name in unreadable)}"
        )
    return DONE


def _convert(arguments: Sequence[str]) -> int:
    from attnorm.options import parse_settings
    from attnorm.training.use_config import ConvertConfig

    config = parse_settings(ConvertConfig, arguments, command="attnorm convert")
    from attnorm.training.convert import convert

    print(convert(config))
    return DONE


def _swap(arguments: Sequence[str]) -> int:
    from attnorm.options import parse_settings
    from attnorm.training.swap_config import SwapConfig

    config = parse_settings(SwapConfig, arguments, command="attnorm swap")
    from attnorm.training.swap import describe, swap

    print("\n".join(describe(swap(config))))
    return DONE


def _export(arguments: Sequence[str]) -> int:
    from attnorm.deploy.config import ExportConfig
    from attnorm.options import parse_settings

    config = parse_settings(ExportConfig, arguments, command="attnorm export")
    from attnorm.deploy.export import describe, export

    print("\n".join(describe(export(config))))
    return DONE


def _compare(arguments: Sequence[str]) -> int:
    from attnorm.evidence.config import CompareConfig
    from attnorm.options import parse_settings

    config = parse_settings(CompareConfig, arguments, command="attnorm compare", recipe=True)
    from attnorm.evidence.compare import compare

    compare(config)
    return DONE


def _inspect(arguments: Sequence[str]) -> int:
    from attnorm.evidence.inspect_config import InspectConfig
    from attnorm.options import parse_settings

    config = parse_settings(InspectConfig, arguments, command="attnorm inspect")
    from attnorm.evidence.inspect import inspect

    inspect(config)
    return DONE


def _profile(arguments: Sequence[str]) -> int:
    from attnorm.evidence.profile_config import ProfileConfig
    from attnorm.options import parse_settings

    config = parse_settings(ProfileConfig, arguments, command="attnorm profile")
    # Before torch is imported: its profiler, which memory is measured with, would write notes to itself on stderr.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from attnorm.evidence.profile import profile

    profile(config, command=shlex.join(["attnorm", "profile", *arguments]))
    return DONE


def _demo(arguments: Sequence[str]) -> int:
    from attnorm.evidence.demo_config import DemoConfig
    from attnorm.options import parse_settings

    config = parse_settings(DemoConfig, arguments, command="attnorm demo")
    from attnorm.evidence.demo import demo

    demo(config)
    return DONE


def _hub(arguments: Sequence[str]) -> int:
    from attnorm.hub.config import HubConfig
    from attnorm.options import parse_settings

    config = parse_settings(HubConfig, arguments, command="attnorm hub")
    from attnorm.hub.command import hub

    print("\n".join(hub(config)))
    return DONE


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "models": (_models, "list the networks, with their parameters"),
    "train": (_train, "train a network on images"),
    "eval": (_eval, "accuracy of a checkpoint on a data set; COCO's numbers of a detector or a results file"),
    "predict": (_predict, "classes of images, or objects in them, as JSON and as pictures"),
    "convert": (_convert, "a checkpoint that the authors of AN released, for the commands above; and back"),
    "swap": (_swap, "AN in place of a trained network's norms, with equal outputs, to be fine-tuned"),
    "export": (_export, "a network for other programs: ONNX or torch.export, checked against itself"),
    "profile": (_profile, "what networks cost: parameters, operations, time, memory, energy"),
    "compare": (_compare, "train several networks with several seeds and show them side by side"),
    "inspect": (_inspect, "what the mixture weights of a network with AN do, by layer and by class"),
    "hub": (_hub, "a trained network as a folder in timm's layout with a model card, and to the Hugging Face hub"),
    "demo": (_demo, "a page in the browser: what networks make of an image, side by side"),
}


def usage() -> str:
    """The help of `attnorm` itself."""
    lines = [f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        (
            "usage: attnorm COMMAND [--flag VALUE ...]",
            "",
            "Attentive Normalization for PyTorch: train, compare and use networks that have it.",
            "",
            "commands:",
            *lines,
            "",
            "attnorm COMMAND --help lists the flags of a command. Everywhere: --debug shows the traceback of an error.",
            "attnorm --version prints the version.",
            "",
            "To start: attnorm compare --models resnet8_cifar,resnet8_cifar_an --dataset digits --output runs/digits",
        )
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: as typed after `attnorm`; those of this process when not given.

    Returns:
        0 done; 1 the job failed; 2 the arguments are wrong; 130 interrupted. A failure has one line on stderr.
    """
    watch_launcher()
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    if not given or given[0] in ("-h", "--help", "help"):
        print(usage())
        return DONE
    if given[0] == "--version":
        print(f"attnorm {__version__}")
        return DONE
    try:
        if given[0] not in COMMANDS:
            raise ConfigError(f"the command must be one of {', '.join(COMMANDS)}; got {given[0]!r}")
        with naming_extras(f"attnorm {given[0]}"):
            return COMMANDS[given[0]][0](given[1:])
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else DONE
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except ConfigError as error:
        return _fail(error, WRONG_ARGUMENTS, debug)
    except BrokenPipeError:
        # Whoever read the output, such as `head`, has seen enough. What is still buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except (JobError, OSError) as error:
        return _fail(error, FAILED, debug)
    except Exception as error:
        if debug:
            raise
        return _say(f"error: {type(error).__name__}: {error}; --debug shows where, please report it", FAILED)


def _fail(error: Exception, code: int, debug: bool) -> int:
    if debug:
        raise error
    return _say(f"error: {error}", code, is_cause=not isinstance(error, PeerError))


def _say(message: str, code: int, *, is_cause: bool = True) -> int:
    line = f"attnorm: {rank_prefix()}{' '.join(message.split())}"
    print(line, file=sys.stderr, flush=True)
    tell_launcher(line, is_cause=is_cause)
    return code


if __name__ == "__main__":
    sys.exit(main())
