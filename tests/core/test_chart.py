"""Drawings: places by hand, and nothing that a page shows can become an element of its own."""

import xml.etree.ElementTree as ElementTree

from gymnast_core.web.chart import Plot, drawing, tag

PLOT = Plot(10, 110, 20, 70, first=0, last=4, low=0, high=1)


def test_places_by_hand():
    assert (
        PLOT.line([0, 2, 4], [0.0, 0.5, 1.0], class_="c0")
        == '<polyline points="10.0,70.0 60.0,45.0 110.0,20.0" class="c0"/>'
    )
    assert PLOT.whisker(1, 0.0, 0.25) == '<line x1="35" x2="35" y1="70" y2="57.5"/>'
    assert PLOT.dot(1, 7.0, r=4) == '<circle cx="35" cy="20" r="4"/>', "beyond the range: on the edge"


def test_a_single_value_and_a_flat_curve_have_a_place():
    assert Plot(10, 110, 20, 70, first=3, last=3).x(3) == 10
    assert Plot(10, 110, 20, 70, low=2, high=2).y(2) == 70


def test_words_are_escaped_wherever_they_stand():
    nasty = '"><script>'
    whole = drawing(9, 9, [PLOT.text(1, 2, nasty), tag("a", nasty, href=nasty)], label=nasty)
    root = ElementTree.fromstring(whole)
    assert [element.tag for element in root.iter()] == ["svg", "text", "a"]
    assert root.attrib["aria-label"] == root[0].text == root[1].attrib["href"] == nasty
