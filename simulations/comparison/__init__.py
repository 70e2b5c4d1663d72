"""What a run is compared with: baselines, the same model trained otherwise, and other runs."""
