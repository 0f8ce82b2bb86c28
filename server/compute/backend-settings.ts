/**
 * Settings (GUCs) of a session: read from the backend's own table and put back through `set_config_option`, without SQL.
 *
 * PostgreSQL keeps every setting that differs from its built-in value in a list; walking its few dozen entries tells exactly what a
 * session has SET, whichever way it did (SET, set_config(), a function, DO): nothing has to be guessed from statements. Giving the
 * backend to another session applies only the difference; sessions with the same settings cost nothing but the walk.
 *
 * A session has two layers, as in PostgreSQL: `defaults` from its startup packet (what RESET goes back to) and `changed` by SET.
 *
 * config_generic (guc_tables.h), wasm32: name 0, vartype 24, source 32, reset_source 36, nondef_link {prev 64, next 68}, then by
 * type: the variable's address at 92.
 */
import { AssertionError, must } from '../../engine/assert.ts';
import { type BackendModule, readWord, writeWord } from './backend-layout.ts';

const offset = { name: 0, type: 24, source: 32, resetSource: 36, link: 64, linkNext: 68, variable: 92 } as const;
/** GucSource (guc.h). */
const source = { default: 0, dynamicDefault: 1, client: 9, session: 13 } as const;
/** PGC_SUSET: whatever a session could set, it may have again. PGC_BACKEND settings come with the startup packet. */
const contextSuperuser = 5;
const contextBackendSuperuser = 3;
/** Of a startup packet of a role that is no superuser. */
const contextBackend = 4;
const actionSet = 0;
const typeReal = 2;

/** Part of a transaction, not of a session; or without a value that could be put back. */
const notOfSession = new Set(['transaction_isolation', 'transaction_read_only', 'transaction_deferrable', 'seed']);

/** Settings that PostgreSQL reports with ParameterStatus (GUC_REPORT). */
export const reportedSettings = [
  'application_name',
  'client_encoding',
  'DateStyle',
  'default_transaction_read_only',
  'in_hot_standby',
  'integer_datetimes',
  'IntervalStyle',
  'is_superuser',
  'scram_iterations',
  'search_path',
  'server_encoding',
  'server_version',
  'session_authorization',
  'standard_conforming_strings',
  'TimeZone',
] as const;

export type Settings = ReadonlyMap<string, string>;

/** The order in which to apply: a role belongs to its session authorization. */
function applyOrder(name: string): number {
  return name === 'session_authorization' ? 0 : name === 'role' ? 2 : 1;
}

export class BackendSettings {
  readonly #module: BackendModule;
  /** Address of the list's head, a dlist_node among those of the settings. */
  readonly #listHead: number;
  /** Addresses of looked-up settings; a setting never moves. Placeholders of extensions may be replaced, so they are not kept. */
  readonly #addresses = new Map<string, number>();
  /** Value before any client, of settings that a startup packet has changed. */
  readonly #baseDefaults: Map<string, string>;
  /** The defaults that are in force, ours and no more: what the present session's startup packet has changed. */
  readonly #defaults = new Map<string, string>();

  constructor(module: BackendModule, baseUser: string) {
    this.#module = module;
    // Not set in a backend that was started in single-user mode.
    this.#baseDefaults = new Map([['session_authorization', baseUser]]);
    this.#listHead = this.#findListHead();
  }

  /** What the present session has SET. */
  readChanged(): Map<string, string> {
    const module = this.#module;
    const changed = new Map<string, string>();
    for (let node = readWord(module, this.#listHead + 4); node !== this.#listHead; node = readWord(module, node + 4)) {
      const record = node - offset.link;
      if (readWord(module, record + offset.source) !== source.session) continue;
      const name = module.UTF8ToString(readWord(module, record + offset.name));
      if (!notOfSession.has(name)) changed.set(name, this.#valueOf(name, record));
    }
    return changed;
  }

  /** The present value as SHOW would print it without units, or null if there is no such setting. */
  read(name: string): string | null {
    const record = this.#find(name);
    return record === 0 ? null : this.#valueOf(name, record);
  }

  /** The address of an integer setting's variable, for reading it without a call. */
  integerAddress(name: string): number {
    return readWord(this.#module, must(this.#find(name) || null, `no setting ${name}`) + offset.variable);
  }

  exists(name: string): boolean {
    return this.#find(name) !== 0;
  }

  /**
   * Brings the settings from one session's to another's. Must run inside a transaction (roles and encodings are looked up in
   * catalogs). Returns whether anything was changed. A value that is refused now (a dropped role) surfaces as the backend's ERROR.
   */
  apply(
    from: { changed: Settings },
    to: { defaults: Settings; changed: Settings; unchecked: ReadonlySet<string> },
  ): boolean {
    // First: a role that is still in force would be who asks for the other's settings.
    const roleReset = from.changed.has('role');
    let touched = roleReset;
    if (roleReset) this.#set('role', 'none', contextSuperuser, source.session);
    for (const name of from.changed.keys()) {
      if (to.changed.has(name) || name === 'role') continue;
      this.#set(name, null, contextSuperuser, source.session);
      touched = true;
    }
    touched = this.#applyDefaults(to.defaults, to.unchecked, roleReset) || touched;
    const names = [...to.changed.keys()].sort((a, b) => applyOrder(a) - applyOrder(b));
    // Changing the session authorization resets the role, so after it the role is set even if it is the same.
    const reauthorized = from.changed.get('session_authorization') !== to.changed.get('session_authorization');
    for (const name of names) {
      const value = must(to.changed.get(name));
      if (from.changed.get(name) === value && !(name === 'role' && (reauthorized || roleReset))) continue;
      this.#set(name, value, contextSuperuser, source.session);
      touched = true;
    }
    return touched;
  }

  /** `unchecked`: what a role that is no superuser asks for in its startup packet; PostgreSQL says whether it may. */
  #applyDefaults(to: Settings, unchecked: ReadonlySet<string>, roleReset: boolean): boolean {
    let touched = false;
    for (const name of [...this.#defaults.keys()]) {
      if (to.has(name)) continue;
      this.#setDefault(name, must(this.#baseDefaults.get(name)), contextBackendSuperuser);
      this.#defaults.delete(name);
      touched = true;
    }
    for (const [name, value] of to) {
      if (this.#defaults.get(name) === value && !(name === 'role' && roleReset)) continue;
      if (!this.#baseDefaults.has(name)) this.#baseDefaults.set(name, this.read(name) ?? '');
      this.#setDefault(name, value, unchecked.has(name) ? contextBackend : contextBackendSuperuser);
      this.#defaults.set(name, value);
      touched = true;
    }
    return touched;
  }

  /** Sets what RESET goes back to, too. PostgreSQL lets a later source override only an earlier one, so the old source is forgotten. */
  #setDefault(name: string, value: string, context: number): void {
    const record = this.#find(name);
    if (record !== 0) {
      // A setting whose source is `default` is not in the list; one that is there must not look as if it were not.
      if (readWord(this.#module, record + offset.source) !== source.default) {
        writeWord(this.#module, record + offset.source, source.dynamicDefault);
      }
      writeWord(this.#module, record + offset.resetSource, source.default);
    }
    this.#set(name, value, context, source.client);
  }

  #set(name: string, value: string | null, context: number, from: number): void {
    const module = this.#module;
    const nameText = module.stringToNewUTF8(name);
    const valueText = value === null ? 0 : module.stringToNewUTF8(value);
    try {
      module._set_config_option(nameText, valueText, context, from, actionSet, 1, 0, 0);
    } finally {
      module._free(nameText);
      if (valueText !== 0) module._free(valueText);
    }
  }

  #valueOf(name: string, record: number): string {
    const module = this.#module;
    if (readWord(module, record + offset.type) === typeReal) {
      // The text form has six digits.
      const address = readWord(module, record + offset.variable);
      return String(new DataView(module.HEAPU8.buffer).getFloat64(address, true));
    }
    const text = module.stringToNewUTF8(name);
    const value = module._GetConfigOption(text, 1, 0);
    module._free(text);
    return value === 0 ? '' : module.UTF8ToString(value);
  }

  #find(name: string): number {
    const known = this.#addresses.get(name);
    if (known !== undefined) return known;
    const text = this.#module.stringToNewUTF8(name);
    // createPlaceholders false, skipErrors true, elevel ERROR (not used).
    const record = this.#module._find_option(text, 0, 1, 21);
    this.#module._free(text);
    if (record !== 0 && !name.includes('.')) this.#addresses.set(name, record);
    return record;
  }

  /** search_path is always in the list (PGlite starts with one). The only node that is no setting is the head. */
  #findListHead(): number {
    const module = this.#module;
    const first = this.#find('client_encoding') || this.#find('search_path');
    let node = first + offset.link;
    if (readWord(module, node) === 0) node = this.#find('search_path') + offset.link;
    const start = node;
    do {
      const nameAddress = readWord(module, node - offset.link + offset.name);
      const name = nameAddress < module.HEAPU8.length ? module.UTF8ToString(nameAddress) : '';
      if (!/^[A-Za-z_.0-9]+$/.test(name) || this.#find(name) !== node - offset.link) return node;
      node = readWord(module, node + 4);
    } while (node !== start);
    throw new AssertionError('the list of settings has no head');
  }
}
