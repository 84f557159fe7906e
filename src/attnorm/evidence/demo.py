"""`attnorm demo`: serves a page that shows what networks make of an image."""

import os
import signal
import socket
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import fastapi
import gradio
import uvicorn
from gradio.themes import Default
from PIL import Image

from attnorm.errors import ConfigError, JobError
from attnorm.evidence.demo_config import DemoConfig
from attnorm.evidence.demo_examples import example_images
from attnorm.evidence.demo_network import DemoNetwork
from attnorm.evidence.demo_page import STYLE, Page
from attnorm.training.processes import Processes, choose_device

# The browser itself refuses whatever is not of this server: the page must work without a network, and tell nobody.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; form-action 'self'; base-uri 'self'; frame-ancestors 'self'"
)
App = Callable[[Any, Any, Any], Awaitable[None]]  # as ASGI defines it


def demo(config: DemoConfig) -> None:
    """Serves the page until the process is interrupted.

    Args:
        config: networks, address and limits.

    Raises:
        ConfigError: the two networks have different tasks.
        CheckpointError: a checkpoint cannot be used.
        JobError: the address cannot be listened on.
    """
    networks = load_networks(config)
    listening = listen(config.host, config.port)
    with tempfile.TemporaryDirectory(prefix="attnorm-demo-") as folder, listening:
        server = make_server(networks, config, Path(folder))
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the folder goes, and uploads with it
        host, port = listening.getsockname()[:2]
        print(f"attnorm demo: http://{host}:{port} (Ctrl-C ends it)", flush=True)
        server.run(sockets=[listening])


def load_networks(config: DemoConfig) -> list[DemoNetwork]:
    """The networks that stand side by side.

    Raises:
        ConfigError: one classifies and the other detects.
        CheckpointError: a checkpoint cannot be used.
    """
    device = choose_device(config.device, Processes())
    names = [config.checkpoint] if config.against is None else [config.checkpoint, config.against]
    networks = [DemoNetwork(name, device) for name in names]
    if len({network.detects for network in networks}) > 1:
        tasks = " and ".join(
            f"{network.name} {'detects objects' if network.detects else 'classifies images'}" for network in networks
        )
        raise ConfigError(f"both networks must have the same task; got {tasks}: show them one by one")
    return networks


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any that is free.

    Raises:
        JobError: the address is taken, or not of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise JobError(
            f"the demo must be able to listen on {host}:{port}, and cannot ({error.strerror}); "
            "name another --port (0: any that is free) or --host"
        ) from None


def make_server(networks: Sequence[DemoNetwork], config: DemoConfig, folder: Path) -> uvicorn.Server:
    """The server of the page.

    Args:
        networks: of `load_networks`.
        config: for the limit of the files' size.
        folder: for the example images and for uploaded files; must stay while the server runs.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    examples = _save(example_images(networks[0].checkpoint, networks[0].meta), folder)
    page = Page(networks, examples, config.max_file_mb)
    # Fonts of the visitor's own machine: none is fetched.
    fonts: Any = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    theme = Default(primary_hue="indigo", **fonts)
    app = gradio.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None),
        page.blocks,
        path="/",
        allowed_paths=[str(folder)],
        max_file_size=config.max_file_bytes,
        theme=theme,
        css=STYLE,
        ssr_mode=False,
        pwa=False,
        footer_links=[],
    )
    # A page that is open keeps a connection: without a limit it would hold up the end, and cutting it is no error.
    return uvicorn.Server(uvicorn.Config(own_origin_only(app), log_level="critical", timeout_graceful_shutdown=1))


def _save(images: Mapping[str, Image.Image], folder: Path) -> list[Path]:
    paths = [folder / f"{name.replace(' ', '_')}.png" for name in images]
    for path, image in zip(paths, images.values(), strict=True):
        image.save(path)
    return paths


def own_origin_only(app: App) -> App:
    """An application whose answers carry POLICY."""

    async def with_policy(scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await app(scope, receive, send_with_policy)

    return with_policy
