/** Prints `N passed, N failed` as the last line of a run. What went wrong outside any test counts as failed. */
import type { Reporter, SerializedError, TestModule } from 'vitest/node';

let summary = '';
// After what the other reporters print at the end of a run.
process.once('exit', () => console.log(summary));

export default class SummaryReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], errors: readonly SerializedError[]): void {
    let [passed, failed] = [0, errors.length];
    for (const module of modules) {
      const states = [...module.children.allTests()].map((test) => test.result().state);
      passed += states.filter((state) => state === 'passed').length;
      const failures = states.filter((state) => state === 'failed').length;
      // A file that cannot be loaded, or whose set-up fails, has no failed tests, but is a failure.
      failed += failures === 0 && module.state() === 'failed' ? 1 : failures;
    }
    summary = `${passed} passed, ${failed} failed`;
  }
}
