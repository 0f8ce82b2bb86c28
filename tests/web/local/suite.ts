/**
 * As much of vitest as the contract suites use, for a worker in Chromium: vitest's own `expect`, and `describe`, `it` and hooks that collect tests, which
 * `runTests` runs one after another.
 */
import {
  ASYMMETRIC_MATCHERS_OBJECT,
  GLOBAL_EXPECT,
  JestAsymmetricMatchers,
  JestChaiExpect,
  JestExtend,
  setState,
} from '@vitest/expect';
import * as chai from 'chai';

chai.use(JestExtend);
chai.use(JestChaiExpect);
chai.use(JestAsymmetricMatchers);

const chaiExpect = (value: unknown, message?: string) => chai.expect(value, message);
export const expect = Object.assign(chaiExpect, chai.expect, {
  ...(globalThis as unknown as Record<symbol, object>)[ASYMMETRIC_MATCHERS_OBJECT],
  unreachable: (message?: string) => chai.assert.fail(message ?? 'unreachable'),
});
setState({ assertionCalls: 0 }, expect as never);
(globalThis as unknown as Record<symbol, unknown>)[GLOBAL_EXPECT] = expect;

type Work = () => unknown;

interface Group {
  readonly name: string;
  readonly before: Work[];
  readonly after: Work[];
}

interface Test {
  readonly name: string;
  readonly groups: readonly Group[];
  readonly body: Work;
}

export interface TestResult {
  readonly name: string;
  readonly error: string | null;
}

const tests: Test[] = [];
let groups: readonly Group[] = [];

export function describe(name: string, body: () => void): void {
  const outer = groups;
  groups = [...outer, { name, before: [], after: [] }];
  body();
  groups = outer;
}

function addTest(name: string, body: Work): void {
  tests.push({ name: [...groups.map((group) => group.name), name].join(' > '), groups, body });
}

export const it = Object.assign(addTest, {
  each:
    <T extends readonly unknown[]>(rows: readonly T[]) =>
    (name: string, body: (...row: T) => unknown): void => {
      for (const row of rows) addTest(name.replace('%s', String(row[0])), () => body(...row));
    },
});

export function beforeEach(work: Work): void {
  groups.at(-1)!.before.push(work);
}

export function afterEach(work: Work): void {
  groups.at(-1)!.after.push(work);
}

/** Runs everything that was collected since it ran last. */
export async function runTests(): Promise<TestResult[]> {
  const results: TestResult[] = [];
  for (const { name, groups: around, body } of tests.splice(0)) {
    let error: string | null = null;
    try {
      for (const group of around) for (const work of group.before) await work();
      try {
        await body();
      } finally {
        for (const group of [...around].reverse()) for (const work of group.after) await work();
      }
    } catch (thrown) {
      error = thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown);
    }
    results.push({ name, error });
  }
  return results;
}
