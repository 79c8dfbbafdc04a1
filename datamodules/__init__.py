"""LightningDataModules: what is fed in."""
