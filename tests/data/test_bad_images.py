"""The count of unreadable images, which several workers keep together."""

import threading

from attnorm.data.bad_images import BadImages


def test_names_can_be_asked_for_while_workers_add_images():
    """Torch's nonzero fails with an internal assertion where its input changes under it."""
    bad = BadImages(range(1_000_000), limit=4, title="train")
    done = threading.Event()

    def another_worker():
        while not done.is_set():
            bad._bad[::250_000] = True  # what `add` does, without its warnings
            bad._bad[::250_000] = False

    worker = threading.Thread(target=another_worker)
    worker.start()
    try:
        for _ in range(500):
            assert {*bad.names()} <= {0, 250_000, 500_000, 750_000}
    finally:
        done.set()
        worker.join()
