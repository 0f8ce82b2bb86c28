/**
 * Where this build of PGlite keeps what belongs to a session, in its WASM memory.
 *
 * A Postgres backend serves one session, and keeps its prepared statements, portals, temporary schema and so on behind a handful of
 * static variables. Giving the backend to another client means giving these variables other values (session-state.ts): names stay
 * the client's own, and nothing is copied. Exported variables come with the module (`Module._Name` is their address); those below
 * are not exported, so their addresses are of one build, and are checked:
 * - `checkLayout` compares exported addresses with those of the build the table was made for, and the names inside the two hash
 *   tables that exist from the start, and throws for another build;
 * - tests/wire/backend-layout.pg.test.ts finds every address again by what statements change in memory.
 *
 * | variable | file | holds |
 * |---|---|---|
 * | prepared_queries | prepare.c | statements of PREPARE and of named Parse messages |
 * | unnamed_stmt_psrc | postgres.c | the statement of an unnamed Parse message |
 * | PortalHashTable | portalmem.c | portals; at rest only cursors WITH HOLD |
 * | seqhashtab, last_used_seq | sequence.c | currval(), lastval() |
 * | myTempNamespace, myTempToastNamespace | namespace.c | pg_temp |
 * | on_commits | tablecmds.c | ON COMMIT actions of temporary tables |
 * | listenChannels | async.c | channels of LISTEN |
 * | LockMethodLocalHash | lock.c | locks held; between transactions only session-level ones |
 * | AuthenticatedUserId | miscinit.c | the role that has logged in: whether SET SESSION AUTHORIZATION may name another one |
 * | baseSearchPathStale, searchPathCacheValid | namespace.c | flags of the search path's caches (the compiler stores the first one inverted) |
 */
import { PageliteError } from '../../engine/errors.ts';

/** The parts of PGlite's Emscripten module that the wire listener uses. Exported variables are numbers: their addresses. */
export interface BackendModule {
  HEAPU8: Uint8Array<ArrayBuffer>;
  addFunction(callback: (pointer: number, length: number) => number, signature: string): number;
  removeFunction(index: number): void;
  stringToNewUTF8(text: string): number;
  UTF8ToString(pointer: number): string;
  _free(pointer: number): void;
  _pgl_set_rw_cbs(read: number, write: number): void;
  _PostgresMainLoopOnce(): void;
  _PostgresMainLongJmp(): void;
  _PostgresSendReadyForQueryIfNecessary(): void;
  _pgl_pq_flush(): void;
  _pgl_sendConnData(): void;
  _pq_buffer_remaining_data(): number;
  _IsTransactionBlock(): number;
  _IsAbortedTransactionBlockState(): number;
  _StartTransactionCommand(): void;
  _CommitTransactionCommand(): void;
  _find_option(name: number, createPlaceholders: number, skipErrors: number, elevel: number): number;
  _GetConfigOption(name: number, missingOk: number, restrictPrivileged: number): number;
  _set_config_option(
    name: number,
    value: number,
    context: number,
    source: number,
    action: number,
    changeVal: number,
    elevel: number,
    isReload: number,
  ): number;
  _hash_get_num_entries(table: number): number;
  _hash_create(name: number, elements: number, info: number, flags: number): number;
  _RelationForgetRelation(relation: number): void;
  _lappend(list: number, datum: number): number;
  _list_free_deep(list: number): void;
  _MemoryContextStrdup(context: number, text: number): number;
  _GetUserIdAndSecContext(userId: number, flags: number): void;
  _SetUserIdAndSecContext(userId: number, flags: number): void;
  _GetSessionUserId(): number;
  _procsignal_sigusr1_handler(signal: number): void;
  _malloc(bytes: number): number;
  readonly _CurrentMemoryContext: number;
  readonly _TopMemoryContext: number;
  readonly _InterruptPending: number;
  readonly _QueryCancelPending: number;
  readonly _MyProcPort: number;
}

export const layout = {
  preparedQueries: 2778192,
  unnamedStatement: 2804664,
  portalTable: 2880908,
  sequenceTable: 2778204,
  lastUsedSequence: 2778200,
  tempNamespace: 2777896,
  tempToastNamespace: 2777912,
  onCommits: 2778208,
  listenChannels: 2778116,
  localLocks: 2798344,
  baseSearchPathStale: 2777916,
  searchPathCacheValid: 2777917,
  authenticatedUser: 2878812,
} as const;

/** sizeof(HTAB): a table's name follows it in memory. */
export const hashTableBytes = 48;

const fingerprint = {
  _InterruptPending: 2875472,
  _QueryCancelPending: 2875476,
  _CurrentMemoryContext: 2880864,
  _TopMemoryContext: 2880868,
} as const;

/** Throws `invalid` if this is not the build whose addresses are above. */
export function checkLayout(module: BackendModule): void {
  for (const [name, address] of Object.entries(fingerprint)) {
    const found = module[name as keyof typeof fingerprint];
    if (found !== address) throw unknownBuild(`${name} is at ${found}, not ${address}`);
  }
  for (const [address, name] of [
    [layout.portalTable, 'Portal hash'],
    [layout.localLocks, 'LOCALLOCK hash'],
  ] as const) {
    const found = hashTableName(module, address);
    if (found !== name) throw unknownBuild(`the hash table at ${address} is "${found}", not "${name}"`);
  }
}

/** The name of the hash table that the variable at `address` points to; empty if it points nowhere. */
export function hashTableName(module: BackendModule, address: number): string {
  const table = readWord(module, address);
  return table === 0 || table + hashTableBytes >= module.HEAPU8.length
    ? ''
    : module.UTF8ToString(table + hashTableBytes);
}

export function readWord(module: BackendModule, address: number): number {
  const bytes = module.HEAPU8;
  return (
    (bytes[address]! | (bytes[address + 1]! << 8) | (bytes[address + 2]! << 16) | (bytes[address + 3]! << 24)) >>> 0
  );
}

export function writeWord(module: BackendModule, address: number, value: number): void {
  const bytes = module.HEAPU8;
  bytes[address] = value;
  bytes[address + 1] = value >>> 8;
  bytes[address + 2] = value >>> 16;
  bytes[address + 3] = value >>> 24;
}

function unknownBuild(reason: string): PageliteError {
  return new PageliteError('invalid', `the wire listener does not know this build of PGlite: ${reason}`);
}
