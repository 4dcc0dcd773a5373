"""What jobs of GitHub Actions are told, and how: annotations, summary, outputs, one comment."""
