__all__ = ['ttypes', 'constants', 'Layers']
