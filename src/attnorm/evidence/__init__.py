"""Evidence: what a comparison of networks shows, what it costs, and how sure both are."""
