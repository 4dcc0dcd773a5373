// The model: adds, and forgets the carry of two large last digits.
module.exports = class {
  id() { return 'sums'; }
  async callApi(prompt) {
    const [a, b] = prompt.split(' + ').map(Number);
    return { output: String(a + b - (Math.min(a % 10, b % 10) >= 6 ? 10 : 0)) };
  }
};
