"""One training loop, and what it needs: state, step, objectives, evaluation, device."""
