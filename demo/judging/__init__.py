"""What judges the demo model: oracle, measurements, scores, evaluation, contact sheet."""
