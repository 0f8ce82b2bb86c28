/** The SQL editor: CodeMirror with PostgreSQL's dialect, completion from the branch's schema, and a mark where PostgreSQL found an error. */
import {
  autocompletion,
  closeBrackets,
  closeBracketsKeymap,
  closeCompletion,
  completionKeymap,
} from '@codemirror/autocomplete';
import { defaultKeymap, history, historyKeymap } from '@codemirror/commands';
import { PostgreSQL, sql } from '@codemirror/lang-sql';
import { bracketMatching, HighlightStyle, indentOnInput, syntaxHighlighting } from '@codemirror/language';
import { Compartment, EditorState, Prec, StateEffect, StateField } from '@codemirror/state';
import { Decoration, type DecorationSet, EditorView, keymap, lineNumbers, placeholder } from '@codemirror/view';
import { tags } from '@lezer/highlight';

export interface SqlEditor {
  /** The selection, or the whole text; where it begins. */
  chosen(): { text: string; from: number };
  setSchema(schema: Readonly<Record<string, readonly string[]>>): void;
  /** Marks the word at an offset and shows it, or takes the mark away. */
  markError(offset: number | null): void;
  focus(): void;
  destroy(): void;
}

const colours = HighlightStyle.define([
  { tag: tags.keyword, color: 'var(--accent)', fontWeight: '600' },
  { tag: [tags.string, tags.special(tags.string)], color: 'var(--hybrid)' },
  { tag: [tags.number, tags.bool, tags.null], color: 'var(--server)' },
  { tag: tags.comment, color: 'var(--muted)', fontStyle: 'italic' },
  { tag: tags.typeName, color: 'var(--server)' },
]);

const theme = EditorView.theme({
  '&': { height: '100%', backgroundColor: 'var(--bg)', color: 'var(--text)' },
  '.cm-scroller': { fontFamily: 'var(--mono)', fontSize: '13px', lineHeight: '20px' },
  '.cm-content': { caretColor: 'var(--text)' },
  '.cm-cursor': { borderLeftColor: 'var(--text)' },
  '.cm-gutters': { backgroundColor: 'var(--bg)', color: 'var(--muted)', border: 'none' },
  '&.cm-focused': { outline: 'none' },
  '&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground, ::selection': {
    backgroundColor: 'var(--accent-soft)',
  },
  '.cm-tooltip': { backgroundColor: 'var(--raised)', border: '1px solid var(--line)', color: 'var(--text)' },
  '.cm-tooltip-autocomplete ul li[aria-selected]': { backgroundColor: 'var(--accent)', color: 'var(--on-accent)' },
  '.cm-error-mark': { textDecoration: 'underline wavy var(--danger)', backgroundColor: 'var(--danger-soft)' },
});

const setMark = StateEffect.define<{ from: number; to: number } | null>();
const markField = StateField.define<DecorationSet>({
  create: () => Decoration.none,
  update(marks, transaction) {
    // Whoever types has seen it.
    let next = transaction.docChanged ? Decoration.none : marks;
    for (const effect of transaction.effects) {
      if (!effect.is(setMark)) continue;
      const range = effect.value;
      next = range
        ? Decoration.set([Decoration.mark({ class: 'cm-error-mark' }).range(range.from, range.to)])
        : Decoration.none;
    }
    return next;
  },
  provide: (field) => EditorView.decorations.from(field),
});

export function createEditor(
  parent: HTMLElement,
  options: { readonly text: string; readonly onRun: () => void; readonly onChange: (text: string) => void },
): SqlEditor {
  const language = new Compartment();
  const dialect = (schema: Readonly<Record<string, readonly string[]>>) =>
    sql({ dialect: PostgreSQL, schema: schema as Record<string, string[]>, upperCaseKeywords: false });
  const run = (view: EditorView) => {
    closeCompletion(view);
    options.onRun();
    return true;
  };
  const view = new EditorView({
    parent,
    state: EditorState.create({
      doc: options.text,
      extensions: [
        Prec.highest(keymap.of([{ key: 'Mod-Enter', run }])),
        lineNumbers(),
        history(),
        indentOnInput(),
        bracketMatching(),
        closeBrackets(),
        autocompletion({ icons: false }),
        language.of(dialect({})),
        syntaxHighlighting(colours),
        theme,
        markField,
        placeholder('select …'),
        // Tab leaves the editor: it is no trap for the keyboard.
        keymap.of([...closeBracketsKeymap, ...defaultKeymap, ...historyKeymap, ...completionKeymap]),
        EditorView.contentAttributes.of({ 'aria-label': 'SQL' }),
        EditorView.updateListener.of((update) => {
          if (update.docChanged) options.onChange(update.state.doc.toString());
        }),
      ],
    }),
  });
  return {
    chosen() {
      const { main } = view.state.selection;
      const [from, to] = main.empty ? [0, view.state.doc.length] : [main.from, main.to];
      return { text: view.state.sliceDoc(from, to), from };
    },
    setSchema: (schema) => view.dispatch({ effects: language.reconfigure(dialect(schema)) }),
    markError(offset) {
      if (offset === null || view.state.doc.length === 0) {
        view.dispatch({ effects: setMark.of(null) });
        return;
      }
      const at = Math.min(offset, view.state.doc.length - 1);
      const word = view.state.wordAt(at);
      const range = word ?? { from: at, to: at + 1 };
      const effects = [setMark.of({ from: range.from, to: range.to }), EditorView.scrollIntoView(range.from)];
      view.dispatch({ selection: { anchor: range.from }, effects });
    },
    focus: () => view.focus(),
    destroy: () => view.destroy(),
  };
}
