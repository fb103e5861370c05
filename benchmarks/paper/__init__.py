"""The experiments of arXiv 2307.15593 and more, on any model: what ``wmcore bench`` runs. See docs/experiments.md."""
