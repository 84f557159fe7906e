"""`attnorm models --describe`: what a network is built of, as text and, for an AOGNet, as a picture of its graphs."""

from attnorm.models.describe import build_for_description, describe


def show_structure(name: str, plot: str | None = None) -> None:
    """Print a network's description and draw its graphs.

    Args:
        name: As in `attnorm.models.create_model`.
        plot: File to draw to, .png or .svg; None: no picture.

    Raises:
        ConfigError: For an unknown name, or a picture of a network without graphs.
    """
    model = build_for_description(name)
    if plot is not None:
        from attnorm.evidence.graph_plot import save_graphs  # matplotlib takes a second to be imported

        save_graphs(model, name, plot)
    print(describe(model, name))
