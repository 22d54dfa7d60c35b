/** Texts to token ids, equal to the original's, for texts of printable ASCII characters and white space.
 *
 * Any other text is refused, and one with "&" too: the original repairs them with ftfy and unescapes their HTML, which
 * takes tables of thousands of entries. What is left of the cleaning is lower case. Claims TOK-3 to TOK-11 of SPEC.md.
 */

const START = "<|startoftext|>";
const END = "<|endoftext|>";
const WORDS = /<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+/g;
const PLAIN = /^[\t\n\f\r -%'-~]*$/; // without &
const MAX_MERGES = 49408 - 512 - 2; // OpenAI's file lists more than its vocabulary has room for

/** A text that would have to be repaired first. */
export class NotPlain extends Error {}

/** A table of merges, and the ids that follow from it. */
export class Tokenizer {
  /** `table`: the text of merges.txt, or of OpenAI's bpe_simple_vocab_16e6.txt; a merge a line, after a header. */
  constructor(table) {
    const lines = table.split("\n").map((line) => line.trimEnd());
    const first = /^(#version|"bpe_simple_vocab)/.test(lines[0]) ? 1 : 0;
    const merges = lines.slice(first, first + MAX_MERGES).filter((line) => line);
    const bytes = byteSymbols();
    const printableFirst = [...bytes].sort((a, b) => (a > "\xff") - (b > "\xff") || (a < b ? -1 : 1));
    const symbols = [...printableFirst, ...printableFirst.map((symbol) => `${symbol}</w>`)];
    symbols.push(...merges.map((merge) => merge.replace(" ", "")), START, END);
    this.bytes = bytes;
    this.ids = new Map(symbols.map((symbol, id) => [symbol, id]));
    this.ranks = new Map(merges.map((merge, rank) => [merge, rank]));
    this.vocabSize = symbols.length;
  }

  /** Ids [N, length] in one Int32Array: start, text, end, and zeros. Throws NotPlain, or RangeError if one is too long. */
  encode(texts, length, truncate = false) {
    const rows = new Int32Array(texts.length * length);
    texts.forEach((text, i) => {
      const ids = this.words(text);
      if (ids.length > length - 2 && !truncate) {
        throw new RangeError(`${JSON.stringify(text.slice(0, 50))} has ${ids.length + 2} tokens; expected ${length}`);
      }
      const row = [this.ids.get(START), ...ids.slice(0, length - 2), this.ids.get(END)];
      rows.set(row, i * length);
    });
    return rows;
  }

  /** The ids of a text without start and end. */
  words(text) {
    if (!PLAIN.test(text)) {
      throw new NotPlain(`${JSON.stringify(text.slice(0, 50))} is not plain ASCII without "&", and that is not done here`);
    }
    return (text.toLowerCase().match(WORDS) ?? []).flatMap((word) => {
      return word === START || word === END ? [this.ids.get(word)] : this.merge(word);
    });
  }

  /** Always the pair of the lowest rank, everywhere it is, until none has one. */
  merge(word) {
    let symbols = [...word].map((letter) => this.bytes[letter.charCodeAt(0)]);
    symbols[symbols.length - 1] += "</w>";
    for (;;) {
      const ranked = symbols.slice(1).map((right, i) => this.ranks.get(`${symbols[i]} ${right}`) ?? Infinity);
      const lowest = Math.min(...ranked);
      if (lowest === Infinity) return symbols.map((symbol) => this.ids.get(symbol));
      const joined = [];
      for (let i = 0; i < symbols.length; i++) {
        const found = ranked[i] === lowest;
        joined.push(found ? symbols[i] + symbols[i + 1] : symbols[i]);
        i += found ? 1 : 0;
      }
      symbols = joined;
    }
  }
}

/** A printable character for each of the 256 bytes: itself where it is printable, else one from U+0100 on. */
function byteSymbols() {
  const printable = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  let others = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : others++));
}
