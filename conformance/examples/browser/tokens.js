/** Texts to token ids, equal to the original's: claims TOK-1 to TOK-11 of SPEC.md. */

import { Cleaner } from "./cleaning.js";

const START = "<|startoftext|>";
const END = "<|endoftext|>";
// White space as Python has it, which differs from \s.
const SPACE = String.raw`\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000`;
const SPECIALS = String.raw`<\|startoftext\|>|<\|endoftext\|>`;
const WORDS = new RegExp(String.raw`${SPECIALS}|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^${SPACE}\p{L}\p{N}]+`, "giu");
const MAX_MERGES = 49408 - 512 - 2; // OpenAI's file lists more than its vocabulary has room for

/** A text with more tokens than the context takes. */
export class TooLong extends Error {}

/** A table of merges, the ids that follow from it, and what cleans texts before. */
export class Tokenizer {
  /** `table`: the text of merges.txt, or of OpenAI's bpe_simple_vocab_16e6.txt; `tables`: what tables.json has. */
  constructor(table, tables) {
    this.cleaner = new Cleaner(tables);
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

  /** Ids [N, length] in one Int32Array: start, text, end, and zeros. Throws TooLong. */
  encode(texts, length, truncate = false) {
    const rows = new Int32Array(texts.length * length);
    texts.forEach((text, i) => {
      const ids = this.words(text);
      if (ids.length > length - 2 && !truncate) {
        throw new TooLong(`${JSON.stringify(text.slice(0, 50))} has ${ids.length + 2} tokens; at most ${length} fit`);
      }
      const row = [this.ids.get(START), ...ids.slice(0, length - 2), this.ids.get(END)];
      rows.set(row, i * length);
    });
    return rows;
  }

  /** The ids of a text without start and end. */
  words(text) {
    return (this.cleaner.clean(text).match(WORDS) ?? []).flatMap((word) => {
      return word === START || word === END ? [this.ids.get(word)] : this.merge(word);
    });
  }

  /** Always the pair of the lowest rank, everywhere it is, until none has one. */
  merge(word) {
    let symbols = Array.from(new TextEncoder().encode(word), (byte) => this.bytes[byte]);
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
