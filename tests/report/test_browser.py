"""The report for people in a real browser, offline: it fits, its pictures load, nothing runs."""

import itertools

import pytest

from pipeline.options import DEFAULT_THUMBNAILS
from pipeline.report.html.report import write_html_report
from tests.support import app, devtools, made_runs, samples
from transforms.core.reasons import Reason
from transforms.core.stores import DEFAULT_OPTIONS

pytestmark = pytest.mark.slow

PHONE_PX, DESKTOP_PX = 390, 1440
COMPLAINTS = (
    'Log.entryAdded',
    'Runtime.consoleAPICalled',
    'Runtime.exceptionThrown',
    'Audits.issueAdded',
    'Page.javascriptDialogOpening',
)
# Contrast by WCAG 2: of each text that is seen with what lies behind it.
CONTRASTS = """
(() => {
  const light = (css) => {
    const [r, g, b] = css.match(/[\\d.]+/g).slice(0, 3).map((x) => {
      x /= 255;
      return x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const css = getComputedStyle(node).backgroundColor;
      if (!/rgba\\(.*, 0\\)/.test(css)) return css;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || node.closest('title, desc, .hidden, .skip')) continue;
    const style = getComputedStyle(node);
    const colour = node.closest('svg') ? style.fill : style.color;
    const [a, b] = [light(colour), light(behind(node))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) found.push([walker.currentNode.data, colour]);
  }
  return found;
})()
"""


@pytest.fixture(scope='module')
def browser():
    program = devtools.find()
    if program is None:
        pytest.fail(devtools.HOW_TO_INSTALL)
    made = devtools.Browser(program)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope='module')
def sample(tmp_path_factory):
    output = tmp_path_factory.mktemp('sample')
    app.label('--input', samples.SAMPLE, '--output', output)
    return output / write_html_report(str(output), None, DEFAULT_OPTIONS, DEFAULT_THUMBNAILS)


@pytest.fixture(scope='module')
def hostile(tmp_path_factory):
    output = tmp_path_factory.mktemp('hostile')
    folder = output / '<svg onload=alert(8)>'
    folder.mkdir()
    long_name = 'W' * 180 + '.jpg'
    names = [*made_runs.HOSTILE_NAMES, long_name]
    for name in names:
        (folder / name).write_bytes(samples.picture(1))
    labels = [(0, made_runs.HOSTILE_LABEL, 0.5), (1, 'W' * 200, 0.25)]
    made_runs.write_run(
        output,
        'first',
        [('/a', [(2, '<b onclick=alert(9)>', 0.5), (3, 'M' * 200, 0.5)])],
    )
    made_runs.write_run(
        output,
        'a',
        [(str(folder / name), labels) for name in names],
        [('javascript:alert(5)', Reason.BAD_URI, '<script>alert(6)</script>')],
        sequence=2,
        carried={'split': '"><script>alert(7)</script>'},
        options={'<script>': 'W' * 2000},
        inputs=[{'kind': 'glob', 'uri': '', 'pattern': '</title><script>alert(10)</script>'}],
    )
    return output / write_html_report(str(output), None, DEFAULT_OPTIONS, DEFAULT_THUMBNAILS)


def check_fits(browser, width_px):
    # A phone makes its window wider where the page is.
    assert browser.value('window.innerWidth') == width_px
    assert browser.value('document.documentElement.scrollWidth') <= width_px


def check(browser, path, width_px, images):
    """What holds for every report: it fits, is offline, runs nothing and nothing complains."""
    check_fits(browser, width_px)
    loaded = '[...document.images].map((image) => image.complete && image.naturalWidth)'
    assert browser.value(loaded) == [160] * images
    assert browser.value('document.scripts.length') == 0
    # The style was let in: without it the lists of pictures would have bullets.
    assert browser.value("getComputedStyle(document.querySelector('nav ul')).listStyleType") == (
        'none'
    )
    complaints = [event for event in browser.events if event['method'] in COMPLAINTS]
    assert complaints == []
    requests = [
        event['params']['request']['url']
        for event in browser.events
        if event['method'] == 'Network.requestWillBeSent'
    ]
    assert requests[0] == path.as_uri()
    assert all(url.startswith('data:image/jpeg') for url in requests[1:])


@pytest.mark.parametrize('dark', [False, True])
@pytest.mark.parametrize('width_px', [320, PHONE_PX, 768, DESKTOP_PX])
def test_the_report_of_the_sample(browser, sample, width_px, dark):
    browser.open(sample, width_px, dark=dark)
    check(browser, sample, width_px, images=20)
    assert browser.value(CONTRASTS) == []
    # Also with everything opened.
    browser.value("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    check_fits(browser, width_px)


@pytest.mark.parametrize('width_px', [PHONE_PX, DESKTOP_PX])
def test_a_hostile_run(browser, hostile, width_px):
    browser.open(hostile, width_px)
    check(browser, hostile, width_px, images=2 * (len(made_runs.HOSTILE_NAMES) + 1))
    inside = "document.querySelectorAll('[onerror], [onload], [onclick], [onmouseover]').length"
    assert browser.value(inside) == 0
    assert browser.value("document.querySelectorAll('body b, iframe, object, form').length") == 0
    text = browser.value('document.body.innerText')
    assert made_runs.HOSTILE_LABEL in text
    assert '\u202e' not in text
    browser.value("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    check_fits(browser, width_px)


def test_the_policy_itself_holds(browser, sample, tmp_path):
    """If markup got in after all, it could not run, nor load anything."""
    path = tmp_path / 'injected.html'
    injected = (
        '<main><script>document.title = "ran"</script>'
        '<img src=x onerror="document.title = \'ran\'">'
        '<img src="http://127.0.0.1:9/x.png"><p style="position: fixed">'
    )
    path.write_text(sample.read_text().replace('<main>', injected, 1))
    browser.open(path, DESKTOP_PX)
    assert browser.value('document.title') != 'ran'
    assert browser.value('getComputedStyle(document.querySelector("main > p")).position') == (
        'static'
    )
    blocked = [event for event in browser.events if event['method'] == 'Log.entryAdded']
    assert len(blocked) >= 4


def test_links_and_keys_lead_somewhere(browser, sample):
    browser.open(sample, DESKTOP_PX)
    assert browser.value("document.querySelectorAll('nav a').length") > 5
    missing = """[...document.querySelectorAll('a')].filter(
        (a) => !document.getElementById(a.hash.slice(1))).length"""
    assert browser.value(missing) == 0
    browser.call('Input.dispatchKeyEvent', type='keyDown', key='Tab', code='Tab')
    assert browser.value('document.activeElement.className') == 'skip'
    unnamed = """[...document.querySelectorAll('svg:not([aria-hidden])')].filter(
        (svg) => !svg.getAttribute('aria-labelledby')).length
        + [...document.images].filter((image) => !image.alt).length"""
    assert browser.value(unnamed) == 0
    headings = "[...document.querySelectorAll('h1, h2, h3')].map((h) => h.tagName)"
    order = browser.value(headings)
    assert order[0] == 'H1'
    assert order.count('H1') == 1
    assert all(int(b[1]) - int(a[1]) <= 1 for a, b in itertools.pairwise(order))
