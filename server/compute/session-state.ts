/**
 * What belongs to one client in the one backend, and how the backend changes hands. Runs in the backend's thread, between statements.
 *
 * | state | kept how | cost of a hand-over |
 * |---|---|---|
 * | settings, role, session authorization | difference of two lists (backend-settings.ts) | a list walk; more only if they differ |
 * | prepared statements of both kinds, currval/lastval, ON COMMIT actions | static variables (backend-layout.ts) | a few words |
 * | portals (cursors WITH HOLD) | a hash table of its own, once there is one | a word |
 * | temporary tables | a temporary schema of its own, `pg_temp_<n>`, from a pool | nothing without them; else one catalog query |
 * | LISTEN | a channel list of its own; the union of all while notifications are delivered | a word |
 * | session-level advisory locks | not virtualised: the client keeps the backend (`isPinned`) | - |
 *
 * Rights: AuthenticatedUserId, which PostgreSQL sets once in a backend's life, is the role that has logged in while its session has the backend, and the
 * superuser of the backend while a session's settings are put back. What we look up about roles is looked up in the base state, where
 * no client's search_path stands between.
 *
 * Invariants
 * - `#current` is the session whose state the backend holds; null is the state before any client.
 * - No method is called inside a transaction, except `isPinned` and `statusOf`.
 * - A temporary schema belongs to one session or to the pool, and in the pool it is empty.
 */
import { must } from '../../engine/assert.ts';
import { type BackendModule, layout, readWord, writeWord } from './backend-layout.ts';
import { BackendSettings, reportedSettings } from './backend-settings.ts';
import type { IdentifiedMessage, IdentifyMessage, OpenedMessage, OpenMessage } from './session-protocol.ts';

/** Runs SQL in the backend for ourselves; throws BackendSqlError. Values as text. */
export type RunSql = (sql: string) => (string | null)[][];

interface Session {
  readonly client: number;
  /** Oid of the role that has logged in. */
  loginRole: number;
  /** Names of `defaults` that a role without the rights of a superuser asks for, until PostgreSQL has accepted them. */
  unchecked: ReadonlySet<string>;
  readonly defaults: Map<string, string>;
  changed: Map<string, string>;
  slots: number[];
  portalTable: number;
  channels: readonly string[];
  channelList: number;
  tempSchema: TempSchema | null;
  /** Relations in the temporary schema when the session last had the backend. */
  tempRelations: number[];
}

const none: ReadonlySet<string> = new Set();

interface TempSchema {
  readonly number: number;
  readonly oid: number;
  readonly toastOid: number;
}

/** Static variables that are simply exchanged. */
const slotAddresses = [
  layout.preparedQueries,
  layout.unnamedStatement,
  layout.sequenceTable,
  layout.lastUsedSequence,
  layout.onCommits,
] as const;

/** Temporary schemas are numbered from here: PostgreSQL itself would use pg_temp_0 in this backend. */
const tempSchemaFirst = 1000;
const sentinelChannel = 'pagelite_idle';

export class SessionStates {
  readonly #module: BackendModule;
  readonly #settings: BackendSettings;
  readonly #sql: RunSql;
  readonly #dropUnnamed: () => void;
  readonly #sessions = new Map<number, Session>();
  readonly #base: Session;
  /** Oid of the superuser that the backend was started as. */
  readonly #baseRole: number;
  #current: Session;
  readonly #tempPool: TempSchema[] = [];
  #tempSchemaNext = tempSchemaFirst;
  /** Tables of sessions that have gone, empty. */
  readonly #portalPool: number[] = [];
  readonly #preparedPool: number[] = [];
  #unionList = 0;
  #unionKey = '';
  #listening = 0;
  readonly #database: string;
  readonly #baseUser: string;
  readonly #idleInTransactionAddress: number;
  readonly #idleSessionAddress: number;

  constructor(module: BackendModule, sql: RunSql) {
    this.#module = module;
    this.#dropUnnamed = () => sql('');
    // A simple query drops the unnamed statement, which is the client's.
    this.#sql = (text) => {
      const unnamed = readWord(module, layout.unnamedStatement);
      writeWord(module, layout.unnamedStatement, 0);
      try {
        return sql(text);
      } finally {
        writeWord(module, layout.unnamedStatement, unnamed);
      }
    };
    const [row] = this.#sql('select current_database(), session_user');
    this.#database = must(row?.[0]);
    this.#baseUser = must(row?.[1]);
    this.#settings = new BackendSettings(module, this.#baseUser);
    this.#idleInTransactionAddress = this.#settings.integerAddress('idle_in_transaction_session_timeout');
    this.#idleSessionAddress = this.#settings.integerAddress('idle_session_timeout');
    this.#baseRole = readWord(module, layout.authenticatedUser);
    this.#base = this.#newSession(-1);
    this.#base.portalTable = readWord(module, layout.portalTable);
    this.#current = this.#base;
    this.#base.changed = this.#settings.readChanged();
    this.#adoptTempSchemas();
  }

  get currentClient(): number {
    return this.#current.client;
  }

  get idleInTransactionMs(): number {
    return readWord(this.#module, this.#idleInTransactionAddress);
  }

  get idleSessionMs(): number {
    return readWord(this.#module, this.#idleSessionAddress);
  }

  /** Between transactions: does the session hold locks? Only session-level advisory locks outlive a transaction. */
  get isPinned(): boolean {
    return this.#module._hash_get_num_entries(readWord(this.#module, layout.localLocks)) > 0;
  }

  /** Makes a session. The user must exist, the database must be the backend's, the settings must be accepted. */
  open(message: OpenMessage): OpenedMessage {
    this.#switch(this.#base);
    const refused = (error: NonNullable<OpenedMessage['error']>) => ({
      client: message.client,
      parameters: null,
      error,
    });
    const role = this.#roleOf(message.user);
    const refusal = this.#refusal(message, role);
    if (refusal !== null) return refused(refusal);
    const { oid, isSuperuser } = must(role);
    const session = this.#newSession(message.client);
    session.loginRole = oid;
    session.slots[slotAddresses.indexOf(layout.preparedQueries)] = this.#preparedPool.pop() ?? 0;
    // First: the others are asked for in this role's name.
    if (message.user !== this.#baseUser) session.defaults.set('session_authorization', message.user);
    for (const [name, value] of [...this.#loginSettings(message.user), ...message.settings]) {
      // Names are the same in all cases: one must not stand beside itself.
      const key = name.toLowerCase();
      if (!this.#settings.exists(name) && !name.includes('.')) {
        return refused({ code: '42704', message: `unrecognized configuration parameter "${name}"` });
      }
      if (key === 'session_authorization' && !isSuperuser && value !== message.user) {
        return refused({ code: '42501', message: `permission denied to set session authorization "${value}"` });
      }
      session.defaults.set(key, value);
    }
    if (!isSuperuser) session.unchecked = new Set(message.settings.map(([name]) => name.toLowerCase()));
    this.#sessions.set(message.client, session);
    try {
      this.switchTo(message.client);
    } catch (error) {
      if (!(error instanceof BackendSqlError)) throw error;
      this.#sessions.delete(message.client);
      return refused(error.fields);
    }
    session.unchecked = none;
    const parameters = reportedSettings.map((name) => [name, this.#settings.read(name) ?? ''] as const);
    return { client: message.client, parameters };
  }

  /** What a client's password is checked with. */
  identify({ client, user }: IdentifyMessage): IdentifiedMessage {
    this.#switch(this.#base);
    const [row] = this.#sql(
      `select rolpassword, (rolvaliduntil operator(pg_catalog.<) pg_catalog.now()) is true from pg_catalog.pg_authid
       where rolname operator(pg_catalog.=) ${quoteLiteral(user)}::pg_catalog.name`,
    );
    return { client, password: row?.[0] ?? null, expired: row?.[1] === 't' };
  }

  /** Gives the backend to a session that was opened. */
  switchTo(client: number): void {
    this.#switch(must(this.#sessions.get(client), `session ${client} is not open`));
  }

  /** Drops what the session has made, and forgets it. */
  close(client: number): void {
    const session = this.#sessions.get(client);
    if (session === undefined) return;
    try {
      this.#switch(session);
      this.#discard(session);
    } finally {
      this.#sessions.delete(client);
      this.#switch(this.#base);
      if (session.portalTable !== this.#base.portalTable) this.#portalPool.push(session.portalTable);
      if (session.tempSchema !== null) this.#tempPool.push(session.tempSchema);
    }
  }

  /**
   * Called before ReadyForQuery, when notifications are delivered. Returns the channels of the present session if they have changed.
   * Until `afterNotifications`, the backend listens to all sessions' channels.
   */
  beforeNotifications(): readonly string[] | null {
    const own = readWord(this.#module, layout.listenChannels);
    if (own === 0 && this.#current.channels.length === 0 && this.#listening === 0) return null;
    const channels = this.#readList(own).filter((channel) => channel !== sentinelChannel);
    const changed = channels.join('\0') !== this.#current.channels.join('\0');
    if (changed) {
      this.#listening += (channels.length > 0 ? 1 : 0) - (this.#current.channels.length > 0 ? 1 : 0);
      this.#current.channels = channels;
      this.#rebuildUnion();
    }
    if (this.#unionList !== 0) {
      this.#current.channelList = own;
      writeWord(this.#module, layout.listenChannels, this.#unionList);
    }
    return changed ? channels : null;
  }

  /** Undoes it. A session whose last UNLISTEN has taken the backend off the list of listeners puts it there again for the others. */
  afterNotifications(): void {
    if (this.#unionList !== 0 && readWord(this.#module, layout.listenChannels) === this.#unionList) {
      writeWord(this.#module, layout.listenChannels, this.#current.channelList);
      if (this.#current.channelList === 0) this.#sql(`listen ${sentinelChannel}`);
    }
  }

  #switch(to: Session): void {
    const from = this.#current;
    if (from === to) return;
    this.#save(from);
    this.#current = to;
    this.#load(to);
    const same = from.changed.size === 0 && to.changed.size === 0 && from.defaults.size === 0 && to.defaults.size === 0;
    if (!same) this.#applySettings(from, to);
    writeWord(this.#module, layout.authenticatedUser, to.loginRole);
  }

  #applySettings(from: Session, to: Session): void {
    // What a session has set it was allowed to set.
    writeWord(this.#module, layout.authenticatedUser, this.#baseRole);
    const { _StartTransactionCommand: start, _CommitTransactionCommand: commit } = this.#module;
    const work = () => {
      start.call(this.#module);
      const touched = this.#settings.apply(from, to);
      commit.call(this.#module);
      return touched;
    };
    // An empty statement takes the ParameterStatus messages of the change, which are nobody's.
    try {
      if (this.#guard(work)) this.#sql('');
    } finally {
      writeWord(this.#module, layout.authenticatedUser, to.loginRole);
    }
  }

  /** Runs a statement with the rights of the backend's superuser: one in which nothing is looked up by the client's search_path. */
  #sqlAsSuperuser(sql: string): void {
    const module = this.#module;
    const before = module._malloc(8);
    try {
      module._GetUserIdAndSecContext(before, before + 4);
      module._SetUserIdAndSecContext(this.#baseRole, 0);
      try {
        this.#sql(sql);
      } finally {
        module._SetUserIdAndSecContext(readWord(module, before), readWord(module, before + 4));
      }
    } finally {
      module._free(before);
    }
  }

  /** Set by the driver: runs direct calls into the backend, turning its ERROR into a BackendSqlError after recovery. */
  guard: (<T>(work: () => T) => T) | null = null;

  #guard<T>(work: () => T): T {
    return must(this.guard)(work);
  }

  #save(session: Session): void {
    const module = this.#module;
    session.changed = this.#settings.readChanged();
    slotAddresses.forEach((address, index) => {
      session.slots[index] = readWord(module, address);
    });
    session.channelList = readWord(module, layout.listenChannels);
    this.#savePortals(session);
    this.#saveTempSchema(session);
  }

  #load(session: Session): void {
    const module = this.#module;
    slotAddresses.forEach((address, index) => {
      writeWord(module, address, must(session.slots[index]));
    });
    if (session.channelList === 0 && this.#listening > 0) session.channelList = this.#newList([sentinelChannel]);
    writeWord(module, layout.listenChannels, session.channelList);
    writeWord(module, layout.portalTable, session.portalTable);
    this.#loadTempSchema(session);
  }

  /** The common portal table is left behind to the session that has cursors in it. */
  #savePortals(session: Session): void {
    const table = session.portalTable;
    if (table !== this.#base.portalTable || this.#module._hash_get_num_entries(table) === 0) return;
    this.#base.portalTable = this.#portalPool.pop() ?? this.#newPortalTable();
    for (const other of this.#sessions.values()) {
      if (other !== session && other.portalTable === table) other.portalTable = this.#base.portalTable;
    }
  }

  /** As CreatePortalHashTable (portalmem.c): keys of NAMEDATALEN, entries with a pointer, a string hash. */
  #newPortalTable(): number {
    const module = this.#module;
    const hashElemStrings = 0x0008 | 0x0010;
    // The layout of HASHCTL is below.
    const info = module._malloc(64);
    module.HEAPU8.fill(0, info, info + 64);
    writeWord(module, info + hashControl.keySize, 64);
    writeWord(module, info + hashControl.entrySize, 68);
    const name = module.stringToNewUTF8('Portal hash');
    const table = module._hash_create(name, 16, info, hashElemStrings);
    module._free(name);
    module._free(info);
    return table;
  }

  #saveTempSchema(session: Session): void {
    const module = this.#module;
    const oid = readWord(module, layout.tempNamespace);
    if (oid === 0) return;
    if (session.tempSchema === null) {
      // PostgreSQL has made pg_temp_0 for it: give the schema a name of its own, so that the next session gets another one.
      const toastOid = readWord(module, layout.tempToastNamespace);
      const number = this.#tempSchemaNext++;
      this.#sqlAsSuperuser(
        `alter schema pg_temp_0 rename to pg_temp_${number}; alter schema pg_toast_temp_0 rename to pg_toast_temp_${number}`,
      );
      session.tempSchema = { number, oid, toastOid };
    }
    const { oid: schema, toastOid } = session.tempSchema;
    session.tempRelations = this.#sql(
      `select oid from pg_catalog.pg_class where relnamespace in (${schema}, ${toastOid})`,
    ).map((row) => Number(row[0]));
  }

  #loadTempSchema(session: Session): void {
    const module = this.#module;
    if (session.tempSchema === null) session.tempSchema = this.#tempPool.pop() ?? null;
    const oid = session.tempSchema?.oid ?? 0;
    if (readWord(module, layout.tempNamespace) !== oid) {
      writeWord(module, layout.tempNamespace, oid);
      writeWord(module, layout.tempToastNamespace, session.tempSchema?.toastOid ?? 0);
      module.HEAPU8[layout.baseSearchPathStale] = 1;
      module.HEAPU8[layout.searchPathCacheValid] = 0;
    }
    // Entries that were made while another session had the backend say that the table is somebody else's.
    for (const relation of session.tempRelations) module._RelationForgetRelation(relation);
  }

  /** Temporary schemas that an earlier backend left: emptied, and kept for sessions to come. */
  #adoptTempSchemas(): void {
    const rows = this.#sql(
      `select substring(n.nspname from 9), n.oid, t.oid from pg_catalog.pg_namespace n
       join pg_catalog.pg_namespace t on t.nspname = 'pg_toast_temp_' || substring(n.nspname from 9)
       where n.nspname ~ '^pg_temp_[0-9]+$' and substring(n.nspname from 9)::int >= ${tempSchemaFirst} order by 2`,
    );
    for (const [numberText, oid, toastOid] of rows) {
      const number = Number(numberText);
      this.#tempSchemaNext = Math.max(this.#tempSchemaNext, number + 1);
      this.#sql(dropTempObjects(number));
      this.#tempPool.push({ number, oid: Number(oid), toastOid: Number(toastOid) });
    }
  }

  #discard(session: Session): void {
    const module = this.#module;
    this.#sql('reset session authorization; reset role');
    if (readWord(module, layout.portalTable) !== this.#base.portalTable || this.#portalCount() > 0) {
      this.#sql('close all');
    }
    const prepared = readWord(module, layout.preparedQueries);
    if (prepared !== 0) {
      this.#sql('deallocate all');
      writeWord(module, layout.preparedQueries, 0);
      this.#preparedPool.push(prepared);
    }
    if (readWord(module, layout.unnamedStatement) !== 0) this.#dropUnnamed();
    if (this.isPinned) this.#sql('select pg_catalog.pg_advisory_unlock_all()');
    if (readWord(module, layout.tempNamespace) !== 0) this.#sql('discard temp');
    if (readWord(module, layout.sequenceTable) !== 0) this.#sql('discard sequences');
    this.#stopListening(session);
  }

  #stopListening(session: Session): void {
    const module = this.#module;
    const list = readWord(module, layout.listenChannels);
    if (list === 0) return;
    module._list_free_deep(list);
    writeWord(module, layout.listenChannels, 0);
    if (session.channels.length === 0) return;
    session.channels = [];
    this.#listening--;
    this.#rebuildUnion();
    if (this.#listening === 0) this.#sql('unlisten *');
  }

  #portalCount(): number {
    return this.#module._hash_get_num_entries(readWord(this.#module, layout.portalTable));
  }

  #roleOf(user: string): { readonly oid: number; readonly canLogIn: boolean; readonly isSuperuser: boolean } | null {
    const [row] = this.#sql(
      `select oid, rolcanlogin, rolsuper from pg_catalog.pg_roles
       where rolname operator(pg_catalog.=) ${quoteLiteral(user)}::pg_catalog.name`,
    );
    return row === undefined ? null : { oid: Number(row[0]), canLogIn: row[1] === 't', isSuperuser: row[2] === 't' };
  }

  #refusal(
    message: OpenMessage,
    role: { readonly canLogIn: boolean } | null,
  ): NonNullable<OpenedMessage['error']> | null {
    if (role === null) return { code: '28000', message: `role "${message.user}" does not exist` };
    if (!role.canLogIn) return { code: '28000', message: `role "${message.user}" is not permitted to log in` };
    if (message.database === this.#database) return null;
    const name = quoteLiteral(message.database);
    const [database] = this.#sql(
      `select 1 from pg_catalog.pg_database where datname operator(pg_catalog.=) ${name}::pg_catalog.name`,
    );
    if (database === undefined) return { code: '3D000', message: `database "${message.database}" does not exist` };
    return {
      code: '3D000',
      message: `database "${message.database}" is not served by this endpoint, which has "${this.#database}" open`,
      hint: 'An endpoint serves one database. Start another endpoint on a branch for the other database.',
    };
  }

  /** ALTER ROLE ... SET and ALTER DATABASE ... SET, the more specific ones last. The base user's are in the base state already. */
  #loginSettings(user: string): [string, string][] {
    if (user === this.#baseUser) return [];
    const rows = this.#sql(
      `select unnest(setconfig) from pg_catalog.pg_db_role_setting s
       join pg_catalog.pg_roles r on r.oid operator(pg_catalog.=) s.setrole
         and r.rolname operator(pg_catalog.=) ${quoteLiteral(user)}::pg_catalog.name
       where s.setdatabase operator(pg_catalog.=) any (array[0::pg_catalog.oid, (
         select oid from pg_catalog.pg_database where datname operator(pg_catalog.=) pg_catalog.current_database())])
       order by s.setdatabase`,
    );
    return rows.map(([text]) => {
      const [name, ...value] = must(text).split('=');
      return [must(name), value.join('=')];
    });
  }

  #newSession(client: number): Session {
    return {
      client,
      loginRole: this.#baseRole,
      unchecked: none,
      defaults: new Map(),
      changed: new Map(),
      slots: slotAddresses.map(() => 0),
      portalTable: this.#base?.portalTable ?? 0,
      channels: [],
      channelList: 0,
      tempSchema: null,
      tempRelations: [],
    };
  }

  #rebuildUnion(): void {
    const channels = new Set<string>();
    for (const session of this.#sessions.values()) for (const channel of session.channels) channels.add(channel);
    const key = [...channels].join('\0');
    if (key === this.#unionKey) return;
    if (this.#unionList !== 0) this.#module._list_free_deep(this.#unionList);
    this.#unionList = channels.size === 0 ? 0 : this.#newList([sentinelChannel, ...channels]);
    this.#unionKey = key;
  }

  /** A List of strings in TopMemoryContext, as async.c keeps its channels. */
  #newList(texts: readonly string[]): number {
    const module = this.#module;
    const context = readWord(module, module._TopMemoryContext);
    const before = readWord(module, module._CurrentMemoryContext);
    writeWord(module, module._CurrentMemoryContext, context);
    let list = 0;
    for (const text of texts) {
      const copy = module.stringToNewUTF8(text);
      list = module._lappend(list, module._MemoryContextStrdup(context, copy));
      module._free(copy);
    }
    writeWord(module, module._CurrentMemoryContext, before);
    return list;
  }

  /** List: type 0, length 4, max_length 8, elements 12. */
  #readList(list: number): string[] {
    if (list === 0) return [];
    const module = this.#module;
    const length = readWord(module, list + 4);
    const elements = readWord(module, list + 12);
    return Array.from({ length }, (_, index) => module.UTF8ToString(readWord(module, elements + 4 * index)));
  }
}

/** HASHCTL (hsearch.h), wasm32. */
const hashControl = { keySize: 16, entrySize: 20 } as const;

/** An ERROR of the backend in something that we asked of it. */
export class BackendSqlError extends Error {
  readonly code: string;
  readonly detail: string | undefined;

  constructor(code: string, message: string, detail?: string) {
    super(message);
    this.name = 'BackendSqlError';
    this.code = code;
    this.detail = detail;
  }

  /** As a client is told it. */
  get fields(): { readonly code: string; readonly message: string; readonly detail?: string } {
    const { code, message, detail } = this;
    return { code, message, ...(detail !== undefined && { detail }) };
  }
}

function dropTempObjects(number: number): string {
  // The files are gone with the backend that made them; only the catalogs know these tables.
  return `do $$ declare r record; begin
    for r in select c.oid, c.relname, c.relkind from pg_catalog.pg_class c
      where c.relnamespace = 'pg_temp_${number}'::regnamespace and c.relkind in ('r', 'v', 'S', 'p') loop
      execute pg_catalog.format('drop %s if exists pg_temp_${number}.%I cascade',
        case r.relkind when 'v' then 'view' when 'S' then 'sequence' else 'table' end, r.relname);
    end loop; end $$`;
}

export function quoteLiteral(text: string): string {
  return `E'${text.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`;
}
