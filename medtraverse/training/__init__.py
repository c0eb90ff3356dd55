"""Training: fine-tuning the U-Net, and the classifiers that judge it."""
