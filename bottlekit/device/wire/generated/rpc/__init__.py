__all__ = ['ttypes', 'constants', 'Bottlekit']
