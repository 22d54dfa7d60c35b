/** Texts as the original cleans them: repaired as ftfy repairs them, HTML unescaped twice, lower case.
 *
 * ftfy's steps are those of its `fix_text` with the default settings (https://ftfy.readthedocs.io), of one line after
 * another; its tables are those of the installed one, which tables.py writes. Bytes are strings of U+0000 to U+00FF.
 */

const CONTROLS = /[\0-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]/g;
const SURROGATE_PAIRS = /\xed([\xa0-\xaf])([\x80-\xbf])\xed([\xb0-\xbf])([\x80-\xbf])/g;
const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** What cleans texts, by the tables of tables.json. */
export class Cleaner {
  constructor(tables) {
    this.tables = tables;
    this.bad = new RegExp(tables.bad, "u");
    this.mojibake = new RegExp(tables.mojibake, "gu");
    this.spaced = new RegExp(tables.spaced, "g");
    this.graveWord = new RegExp(tables.graveWord, "g");
    this.lossy = new RegExp(tables.lossy, "g");
    this.ligatures = new RegExp(`[${Object.keys(tables.ligatures).join("")}]`, "g");
    this.encodings = tables.encodings.map(([name, characters]) => new Encoding(name, characters));
    this.sloppy1252 = this.encodings.find(({ name }) => name === "sloppy-windows-1252");
  }

  /** A text before it is split into words; white space is left as it is. */
  clean(text) {
    let isHtml = false; // ftfy takes what follows a "<" for HTML that is meant to be
    const lines = text.match(/[^\n]*\n|[^\n]+$/g) ?? [];
    const repaired = lines.map((line) => {
      isHtml ||= line.includes("<");
      return this.repaired(line, !isHtml);
    });
    return this.unescaped(this.unescaped(repaired.join(""))).toLowerCase();
  }

  /** A line after ftfy, whose steps are taken until nothing changes. */
  repaired(text, unescape) {
    for (;;) {
      let next = unescape ? this.safelyUnescaped(text) : text;
      next = this.decoded(next)
        .replace(/[\x80-\x9f]/g, (control) => this.sloppy1252.characters[control.charCodeAt(0)])
        .replace(this.ligatures, (ligature) => this.tables.ligatures[ligature])
        .replace(/[\u3000\uff01-\uffef]/g, (wide) => wide.normalize("NFKC"))
        .replace(/[\u201c-\u201f]/g, '"')
        .replace(/[\u02bc\u2018-\u201b]/g, "'")
        .replace(/\r\n|[\r\u2028\u2029\x85]/g, "\n")
        .toWellFormed()
        .replace(/\x1b\[(?:\p{Nd}|;)*[a-zA-Z]/gu, "")
        .replace(CONTROLS, "")
        .normalize("NFC");
      if (next === text) return text;
      text = next;
    }
  }

  /** A text whose bytes were read in the wrong encoding, once or several times, read in the right one. */
  decoded(text) {
    for (;;) {
      const next = this.decodedOnce(text);
      if (next === text) return text;
      text = next;
    }
  }

  decodedOnce(text) {
    if (/^[\0-\x7f]*$/.test(text) || !this.bad.test(text)) return text;
    for (const encoding of this.encodings) {
      const bytes = encoding.encode(text);
      const found = bytes === null ? null : decodeUtf8(this.restored(bytes, encoding.name));
      if (found !== null) return found;
    }
    const inside = text.replace(this.mojibake, (part) => {
      return part.length < text.length && this.bad.test(part) ? this.decoded(part) : part;
    });
    if (inside !== text) return inside;
    if (/^[\0-\xff]*$/.test(text)) {
      const characters = [...text].map((letter) => this.tables.windows1252[letter.charCodeAt(0)]);
      if (!characters.includes(null) && characters.join("") !== text) return characters.join("");
    }
    return text.replace(/[\x80-\x9f]/g, (control) => this.sloppy1252.characters[control.charCodeAt(0)]);
  }

  /** Bytes with A0 where it had become a space, and U+FFFD for what was lost of a character. */
  restored(bytes, encoding) {
    if (encoding !== "macroman" && bytes.search(this.spaced) >= 0) {
      bytes = bytes.replace(this.graveWord, "\xc3\xa0 ").replace(this.spaced, (part) => part.replaceAll(" ", "\xa0"));
    }
    return encoding.startsWith("sloppy") ? bytes.replace(this.lossy, "\xef\xbf\xbd") : bytes;
  }

  /** Entities that end in a semicolon, and names in capitals where they can mean but one. */
  safelyUnescaped(text) {
    return text.replace(/&#?[0-9A-Za-z]{1,24};/g, (entity) => {
      if (Object.hasOwn(this.tables.safeEntities, entity)) return this.tables.safeEntities[entity];
      const found = entity.startsWith("&#") ? this.unescaped(entity) : entity;
      return found.includes(";") ? entity : found;
    });
  }

  /** Everything that HTML takes for an entity, as Python's `html.unescape` has it. */
  unescaped(text) {
    return text.replace(/&(#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)/gu, (whole, name) => {
      if (name[0] === "#") return this.character(Number(name.replace("#", "0").replace(";", "")));
      for (let end = name.length; end > 1; end--) {
        const known = name.slice(0, end);
        if (Object.hasOwn(this.tables.entities, known)) return this.tables.entities[known] + name.slice(end);
      }
      return whole;
    });
  }

  character(code) {
    if (Object.hasOwn(this.tables.numbers, code)) return this.tables.numbers[code];
    return code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff) ? "\ufffd" : String.fromCodePoint(code);
  }
}

/** An encoding of one byte a character; a sloppy one has characters for all, and U+FFFD for what was lost. */
class Encoding {
  constructor(name, characters) {
    this.name = name;
    this.characters = characters;
    this.bytes = new Map(characters.map((character, byte) => [character, String.fromCharCode(byte)]));
  }

  /** The bytes of a text, or null if it has other characters. */
  encode(text) {
    const bytes = Array.from(text, (character) => this.bytes.get(character));
    return bytes.includes(undefined) ? null : bytes.join("");
  }
}

/** The text of UTF-8 bytes, also of Java's and CESU-8's variants; null if it is none. */
function decodeUtf8(bytes) {
  const usual = bytes.replaceAll("\xc0\x80", "\0").replace(SURROGATE_PAIRS, (_, ...four) => {
    const [a, b, c, d] = four.map((byte) => byte.charCodeAt(0));
    const code = 0x10000 + ((a & 15) << 16) + ((b & 63) << 10) + ((c & 15) << 6) + (d & 63);
    return String.fromCharCode(...new TextEncoder().encode(String.fromCodePoint(code)));
  });
  try {
    return UTF8.decode(Uint8Array.from(usual, (byte) => byte.charCodeAt(0)));
  } catch {
    return null;
  }
}
