"""What stands around every page of HTML."""

from clipref.cli.pages import html_page


def test_a_title_is_text_and_can_be_written() -> None:
    page = html_page("<b> & a\udcff.png", "p {}", "<p>in</p>\n").encode("utf-8")
    assert b"<title>&lt;b&gt; &amp; a?.png</title>" in page
    assert page.count(b"<p>in</p>") == 1 and b"<style>p {}</style>" in page and page.endswith(b"</html>\n")
