import pytest
from huggingface_hub import constants, set_client_factory
from huggingface_hub.utils._http import default_client_factory

from attnorm.models.hub import fetch
from tests.hub.hub_server import Hub, http


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub in memory, and a cache of its own that is empty."""
    made = Hub()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between its attempts
    set_client_factory(lambda: http.Client(transport=http.MockTransport(made.answer)))
    fetch.cache_clear()
    yield made
    set_client_factory(default_client_factory)
    fetch.cache_clear()
