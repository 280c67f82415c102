"""The native engine on a GPU: rings whose polynomials live on a device."""
