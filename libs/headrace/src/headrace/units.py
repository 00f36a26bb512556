# SPDX-License-Identifier: Apache-2.0
"""The units that a contract can convert between: a small, closed table.

Factors are exact by definition (SI brochure; international yard and pound agreement, 1959) or the
rounded ones of NIST SP 811. A unit outside the table is a text for people and converts to nothing.
"""

from __future__ import annotations

from fractions import Fraction

# By dimension: how many of the first unit one of each is.
_FACTORS: dict[str, dict[str, str]] = {
    "length": {
        "m": "1", "km": "1000", "cm": "0.01", "mm": "0.001", "um": "0.000001", "in": "0.0254",
        "ft": "0.3048", "yd": "0.9144", "mi": "1609.344", "nmi": "1852",
    },
    "mass": {
        "kg": "1", "g": "0.001", "mg": "0.000001", "t": "1000", "lb": "0.45359237",
        "oz": "0.028349523125",
    },
    "time": {
        "s": "1", "ms": "0.001", "us": "0.000001", "ns": "0.000000001", "min": "60", "h": "3600",
        "d": "86400", "wk": "604800",
    },
    "speed": {"m/s": "1", "km/h": "1/3.6", "mph": "0.44704", "kn": "1852/3600", "ft/s": "0.3048"},
    "pressure": {
        "Pa": "1", "hPa": "100", "kPa": "1000", "bar": "100000", "mbar": "100", "atm": "101325",
        "psi": "6894.757", "mmHg": "133.3224", "inHg": "3386.389",
    },
    "energy": {
        "J": "1", "kJ": "1000", "MJ": "1000000", "Wh": "3600", "kWh": "3600000",
        "MWh": "3600000000", "cal": "4.184", "kcal": "4184",
    },
    "power": {"W": "1", "kW": "1000", "MW": "1000000", "mW": "0.001", "hp": "745.6999"},
    "volume": {"l": "1", "ml": "0.001", "m3": "1000", "gal": "3.785411784", "ft3": "28.316846592"},
    "area": {"m2": "1", "km2": "1000000", "ha": "10000", "ft2": "0.09290304", "ac": "4046.8564224"},
    "data": {
        "B": "1", "bit": "0.125", "kB": "1000", "MB": "1000000", "GB": "1000000000",
        "TB": "1000000000000", "KiB": "1024", "MiB": "1048576", "GiB": "1073741824",
    },
    "ratio": {"1": "1", "%": "0.01", "permille": "0.001", "ppm": "0.000001", "bp": "0.0001"},
    "angle": {"rad": "1", "deg": "0.017453292519943295", "mrad": "0.001"},
    "temperature": {"K": "1", "degC": "1", "degF": "5/9"},
}  # fmt: skip
# What is added after the factor: zero on these scales is not zero.
_OFFSETS = {"degC": Fraction("273.15"), "degF": Fraction("459.67") * Fraction(5, 9)}
_DIMENSION_BY_UNIT = {unit: name for name, units in _FACTORS.items() for unit in units}


def conversion(sent: str, stored: str) -> tuple[float, float]:
    """`(factor, offset)`: a value in `stored` is the sent one times factor plus offset.

    Raises ValueError for a unit outside the table, or of another dimension.
    """
    for unit in (sent, stored):
        if unit not in _DIMENSION_BY_UNIT:
            raise ValueError(f"unit {unit} is not in the table: {', '.join(_DIMENSION_BY_UNIT)}")
    of_sent, of_stored = _DIMENSION_BY_UNIT[sent], _DIMENSION_BY_UNIT[stored]
    if of_sent != of_stored:
        raise ValueError(f"{sent} is a unit of {of_sent}, {stored} of {of_stored}")
    factor = _factor(sent) / _factor(stored)
    offset = (_offset(sent) - _offset(stored)) / _factor(stored)
    return float(factor), float(offset)


def _factor(unit: str) -> Fraction:
    over, _, under = _FACTORS[_DIMENSION_BY_UNIT[unit]][unit].partition("/")
    return Fraction(over) / Fraction(under or 1)


def _offset(unit: str) -> Fraction:
    return _OFFSETS.get(unit, Fraction(0))
