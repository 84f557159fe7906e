"""The demo page served from a thread of this process, on a port that is free."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from attnorm.evidence.demo import listen, load_networks, make_server
from attnorm.evidence.demo_config import DemoConfig

CLASSIFIERS = ("resnet20_cifar.fashion_mnist", "resnet20_cifar_an.fashion_mnist")
DETECTORS = ("mask_rcnn_resnet10_small_fpn.nuclei", "mask_rcnn_resnet10_small_an_fpn.nuclei")


@contextmanager
def serving(checkpoint: str, against: str | None = None) -> Iterator[str]:
    """The address of the page, which refuses files of more than 1 MB."""
    config = DemoConfig(checkpoint=checkpoint, against=against, port=0, max_file_mb=1)
    with listen(config.host, config.port) as listening, TemporaryDirectory() as folder:
        server = make_server(load_networks(config), config, Path(folder))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.05)
            host, port = listening.getsockname()
            assert host == "127.0.0.1"
            yield f"http://{host}:{port}"
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()
